/* ---- Kernels for x86-64 with AVX-VNNI ---------------------------------------------------------------------------
 *
 * Processors without AVX-512: vpdpbusd adds four products of unsigned activations and signed weights to each of eight
 * int32, where AVX2 takes three instructions.
 */
#if defined(AVX2_KERNELS) && (defined(__clang__) ? __clang_major__ >= 12 : defined(__GNUC__) ? __GNUC__ >= 11 : \
                              _MSC_VER >= 1930)
#define AVX_VNNI_KERNELS

#define AVX_VNNI COMPILED_FOR("avx2,avxvnni")

/* sums + bytes * weights, in place, as add_products_avx512(). */
AVX_VNNI INLINE __m256i add_products_avx_vnni(__m256i sums, __m256i bytes, __m256i weights)
{
#if !defined(__GNUC__) || defined(__clang__) || defined(NO_ASSEMBLER)
    return _mm256_dpbusd_avx_epi32(sums, bytes, weights);
#else
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(bytes), "xm"(weights));
    return sums;
#endif
}

/* sums[width * p + q]: of `height` pixels, `width` x 8 outputs from `output` on. */
AVX_VNNI INLINE void accumulate_avx_vnni(const Layer *l, const uint8_t *in, int stride, int output, __m256i *sums,
                                         const int height, const int width)
{
    const int inputs = padded(l->inputs, 4);
    const int8_t *weights = l->weights + output * inputs;
    int i, p, q;
    UNROLL for (p = 0; p < height; p++)
        UNROLL for (q = 0; q < width; q++)
            sums[width * p + q] = _mm256_loadu_si256((const __m256i *)(l->biases + output + 8 * q));
    for (i = 0; i < inputs; i += 4) {
        __m256i pixels[6];
        UNROLL for (p = 0; p < height; p++)
            pixels[p] = _mm256_set1_epi32(four_bytes(in + p * stride + i));
        UNROLL for (q = 0; q < width; q++) {
            const int8_t *column = weights + (q / 2 * inputs + i) * 16 + q % 2 * 32;
            const __m256i bytes = _mm256_loadu_si256((const __m256i *)column);
            UNROLL for (p = 0; p < height; p++)
                sums[width * p + q] = add_products_avx_vnni(sums[width * p + q], pixels[p], bytes);
        }
    }
}

/* Four registers of sums to 32 bytes: eight of the first, of the second ... */
AVX_VNNI INLINE __m256i packed_avx_vnni(const __m256i sums[4], const __m256 factors[4])
{
    __m256i scaled[4];
    int q;
    UNROLL for (q = 0; q < 4; q++)
        scaled[q] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums[q]), factors[q]));
    return _mm256_packus_epi16(_mm256_packs_epi32(scaled[0], scaled[1]), _mm256_packs_epi32(scaled[2], scaled[3]));
}

/* A register tile of a 1x1 convolution: `height` pixels by `width` x 8 outputs, 2 or 4, from `output` on. */
AVX_VNNI INLINE void tile_avx_vnni(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int output,
                                   const __m256 factors[4], const int height, const int width)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const int apart = padded(l->outputs, 16);
    __m256i sums[14];
    int p;
    sums[2] = sums[3] = _mm256_setzero_si256(); /* of a single pixel by 16 outputs there are two */
    accumulate_avx_vnni(l, in, stride, output, sums, height, width);
    UNROLL for (p = 0; p < height; p += 4 / width) {
        const __m256i bytes = _mm256_permutevar8x32_epi32(packed_avx_vnni(sums + width * p, factors), order);
        uint8_t *target = out + p * apart + output;
        if (width == 4)
            _mm256_storeu_si256((__m256i *)target, bytes);
        else {
            _mm_storeu_si128((__m128i *)target, _mm256_castsi256_si128(bytes));
            if (height > 1)
                _mm_storeu_si128((__m128i *)(target + apart), _mm256_extracti128_si256(bytes, 1));
        }
    }
}

/* All pixels by `width` x 8 outputs: 12 registers of sums, since one takes five cycles, and two are begun in each. */
AVX_VNNI INLINE void strip_avx_vnni(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels,
                                    int output, const int width)
{
    const int height = 12 / width, apart = padded(l->outputs, 16);
    __m256 factors[4];
    int q;
    UNROLL for (q = 0; q < 4; q++)
        factors[q] = _mm256_loadu_ps(l->factors + output + q % width * 8);
    for (; pixels >= height && pixels != 4; pixels -= height, in += height * stride, out += height * apart)
        tile_avx_vnni(l, in, stride, out, output, factors, height, width);
    for (; pixels >= 2; pixels -= 2, in += 2 * stride, out += 2 * apart)
        tile_avx_vnni(l, in, stride, out, output, factors, 2, width);
    if (pixels)
        tile_avx_vnni(l, in, stride, out, output, factors, 1, width);
}

AVX_VNNI static void pointwise_avx_vnni(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int outputs = padded(l->outputs, 16);
    int o = 0;
    for (; o + 32 <= outputs; o += 32)
        strip_avx_vnni(l, in, stride, out, pixels, o, 4);
    if (o < outputs)
        strip_avx_vnni(l, in, stride, out, pixels, o, 2);
}

/* Four rows of 16 channels in column x: column[0] has channels 0 to 3 and 8 to 11, of each the four rows, which is what
 * vpdpbusd takes; column[1] the others. */
AVX_VNNI INLINE void column_avx_vnni(__m256i column[2], const Line lines[4], intptr_t x)
{
    const __m128i a = load16(lines[0].in + x * lines[0].step), b = load16(lines[1].in + x * lines[1].step);
    const __m128i c = load16(lines[2].in + x * lines[2].step), d = load16(lines[3].in + x * lines[3].step);
    const __m256i ab = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi8(a, b)),
                                               _mm_unpackhi_epi8(a, b), 1);
    const __m256i cd = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi8(c, d)),
                                               _mm_unpackhi_epi8(c, d), 1);
    column[0] = _mm256_unpacklo_epi16(ab, cd);
    column[1] = _mm256_unpackhi_epi16(ab, cd);
}

/* Four bytes a channel: of channels 0 to 3 and 8 to 11 from `in` on. */
AVX_VNNI INLINE __m256i two_parts_avx_vnni(const void *in)
{
    const uint8_t *bytes = (const uint8_t *)in;
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load16(bytes)), load16(bytes + 32), 1);
}

/* 16 channels from `c` on of some rows. With stride 1, which is padded on every side, two rows of output read the same
 * four: the upper one with weights for the first three, the lower one with weights for the last three. */
AVX_VNNI INLINE void channels_avx_vnni(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows, int c,
                                       const int stride)
{
    const intptr_t apart = padded(l->inputs, 16), out_row = l->out_size * apart;
    const int at_once = stride == 1 ? 2 : 1;
    __m256i weights[2][3][2], biases[2];
    __m256 factors[4];
    intptr_t x;
    int q, k, y, r;
    UNROLL for (q = 0; q < 2; q++) {
        UNROLL for (k = 0; k < 3; k++) {
            weights[0][k][q] = two_parts_avx_vnni(l->weights + c * 12 + k * 64 + q * 16);
            weights[1][k][q] = _mm256_slli_epi32(weights[0][k][q], 8);
        }
        biases[q] = two_parts_avx_vnni(l->biases + c + 4 * q);
        factors[q] = factors[q + 2] = _mm256_castsi256_ps(two_parts_avx_vnni(l->factors + c + 4 * q));
    }
    for (y = 0, out += c; y < rows; y += at_once, out += at_once * out_row) {
        Line lines[4];
        __m256i left[2], middle[2], right[2];
        for (k = 0; k < 4; k++) /* with stride 2 there is no fourth row */
            lines[k] = line_of(l, in, k < 2 + at_once ? (row + y) * stride + k - l->top : -1, c);
        UNROLL for (q = 0; q < 2; q++)
            left[q] = middle[q] = right[q] = _mm256_setzero_si256();
        if (stride == 1)
            column_avx_vnni(middle, lines, 0);
        else if (l->left == 0)
            column_avx_vnni(left, lines, 0);
        for (x = 0; x < l->out_size; x++) {
            const intptr_t last_column = x * stride + 2 - l->left;
            __m256i sums[4];
            if (stride == 2)
                column_avx_vnni(middle, lines, last_column - 1);
            if (last_column < l->in_size)
                column_avx_vnni(right, lines, last_column);
            else
                right[0] = right[1] = _mm256_setzero_si256();
            UNROLL for (q = 0; q < 2; q++) {
                UNROLL for (r = 0; r < at_once; r++) {
                    sums[2 * r + q] = add_products_avx_vnni(biases[q], left[q], weights[r][0][q]);
                    sums[2 * r + q] = add_products_avx_vnni(sums[2 * r + q], middle[q], weights[r][1][q]);
                    sums[2 * r + q] = add_products_avx_vnni(sums[2 * r + q], right[q], weights[r][2][q]);
                }
                if (at_once == 1)
                    sums[2 + q] = sums[q];
            }
            /* by eights: the lower channels of the first row, of the second, the upper ones of both */
            sums[0] = _mm256_permute4x64_epi64(packed_avx_vnni(sums, factors), 0xD8);
            _mm_storeu_si128((__m128i *)(out + x * apart), _mm256_castsi256_si128(sums[0]));
            if (at_once == 2 && y + 1 < rows)
                _mm_storeu_si128((__m128i *)(out + out_row + x * apart), _mm256_extracti128_si256(sums[0], 1));
            UNROLL for (q = 0; q < 2; q++) {
                left[q] = stride == 1 ? middle[q] : right[q];
                middle[q] = right[q];
            }
        }
    }
}

AVX_VNNI static void depthwise_avx_vnni(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    int c;
    for (c = 0; c < l->inputs; c += 16)
        if (l->stride == 1)
            channels_avx_vnni(l, in, out, row, rows, c, 1);
        else
            channels_avx_vnni(l, in, out, row, rows, c, 2);
}

AVX_VNNI static void classify_avx_vnni(const Layer *l, const uint8_t *in, float *logits)
{
    int o, q;
    for (o = 0; o < l->outputs; o += 16) {
        __m256i sums[2];
        float values[16];
        accumulate_avx_vnni(l, in, 0, o, sums, 1, 2);
        for (q = 0; q < 2; q++)
            _mm256_storeu_ps(values + 8 * q, _mm256_mul_ps(_mm256_cvtepi32_ps(sums[q]),
                                                           _mm256_loadu_ps(l->factors + o + 8 * q)));
        memcpy(logits + o, values, sizeof *values * (size_t)smaller(16, l->outputs - o));
    }
}

static int has_avx_vnni(void)
{
    return has_x86(X86_AVX_VNNI);
}

static const Kernels avx_vnni_kernels = {has_avx_vnni,  patches_avx2,      depthwise_avx_vnni, pointwise_avx_vnni,
                                         pool_portable, classify_avx_vnni, NULL,               0};

#endif

