/* ---- Kernels for x86-64 with AVX-512 VNNI -----------------------------------------------------------------------
 *
 * vpdpbusd adds four products of unsigned activations and signed weights to each int32.
 */
#ifdef AVX2_KERNELS
#define AVX512_VNNI_KERNELS

#define AVX512 COMPILED_FOR("avx512f,avx512bw,avx512vl,avx512vnni")

/* sums + bytes * weights. gcc moves every sum twice around the intrinsic of an instruction that adds in place. */
AVX512 INLINE __m512i add_products_avx512(__m512i sums, __m512i bytes, __m512i weights)
{
#if !defined(__GNUC__) || defined(__clang__) || defined(NO_ASSEMBLER)
    return _mm512_dpbusd_epi32(sums, bytes, weights);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "v"(weights));
    return sums;
#endif
}

/* The same, with the weights read from memory as they are used. */
AVX512 INLINE __m512i add_stored_products_avx512(__m512i sums, __m512i bytes, const __m512i *weights)
{
#if !defined(__GNUC__) || defined(__clang__) || defined(NO_ASSEMBLER)
    return _mm512_dpbusd_epi32(sums, bytes, *weights);
#else
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(bytes), "m"(*weights));
    return sums;
#endif
}

/* Quarter i: 0 to 3. */
AVX512 INLINE __m128i quarter_avx512(__m512i quarters, const int i)
{
    return i == 0   ? _mm512_castsi512_si128(quarters)
           : i == 1 ? _mm512_extracti32x4_epi32(quarters, 1)
           : i == 2 ? _mm512_extracti32x4_epi32(quarters, 2)
                    : _mm512_extracti32x4_epi32(quarters, 3);
}

/* What four registers of sums start from, and how they are scaled. */
typedef struct {
    __m512i starts[4];
    __m512 factors[4], offsets[4];
} Scaling;

/* Sums start from the bits of the float 2^23, so that the bits of a sum s >= 0 are those of the float 2^23 + s, and one
 * fused multiplication and subtraction gives s * factor, rounded once, as in requantize(). What a negative sum gives is
 * negative too, which is saturated to zero. Where sums could reach 2^23 they start from 0, and are converted. */
AVX512 INLINE void set_scaling_avx512(Scaling *s, int q, __m512i biases, __m512 factors)
{
    s->starts[q] = SUMS_FIT_23_BITS ? _mm512_add_epi32(biases, _mm512_set1_epi32(0x4B000000)) : biases;
    s->factors[q] = factors;
    s->offsets[q] = _mm512_mul_ps(factors, _mm512_set1_ps(8388608.0f)); /* exact */
}

/* Register q in integers, not yet saturated. */
AVX512 INLINE __m512i scaled_avx512(__m512i sums, const Scaling *s, int q)
{
    return _mm512_cvtps_epi32(SUMS_FIT_23_BITS
                                  ? _mm512_fmsub_ps(_mm512_castsi512_ps(sums), s->factors[q], s->offsets[q])
                                  : _mm512_mul_ps(_mm512_cvtepi32_ps(sums), s->factors[q]));
}

/* Of `width` x 16 outputs from `output` on, again and again. */
AVX512 INLINE void outputs_scaling_avx512(Scaling *s, const Layer *l, int output, const int width)
{
    int q;
    UNROLL for (q = 0; q < 4; q++) {
        const int o = output + 16 * (q % width);
        set_scaling_avx512(s, q, _mm512_loadu_si512(l->biases + o), _mm512_loadu_ps(l->factors + o));
    }
}

/* Four registers of sums to 64 bytes: within each quarter, four of the first, four of the second ... */
AVX512 INLINE __m512i packed_avx512(const __m512i sums[4], const Scaling *s)
{
    const __m512i low = _mm512_packs_epi32(scaled_avx512(sums[0], s, 0), scaled_avx512(sums[1], s, 1));
    const __m512i high = _mm512_packs_epi32(scaled_avx512(sums[2], s, 2), scaled_avx512(sums[3], s, 3));
    return _mm512_packus_epi16(low, high);
}

/* Requantizes and stores four registers of sums of 16 outputs each: `width` of every pixel, `stride` bytes apart. */
AVX512 INLINE void store_avx512(uint8_t *out, int stride, const __m512i sums[4], const Scaling *s, const int width)
{
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(order, packed_avx512(sums, s));
    int q;
    if (width == 4)
        _mm512_storeu_si512(out, bytes);
    else if (width == 2) {
        _mm256_storeu_si256((__m256i *)out, _mm512_castsi512_si256(bytes));
        _mm256_storeu_si256((__m256i *)(out + stride), _mm512_extracti64x4_epi64(bytes, 1));
    } else {
        UNROLL for (q = 0; q < 4; q++)
            _mm_storeu_si128((__m128i *)(out + q * stride), quarter_avx512(bytes, q));
    }
}

/* The same of a single pixel, which has fewer than four registers of sums. */
AVX512 INLINE void store_pixel_avx512(uint8_t *out, const __m512i *sums, const Scaling *s, const int width)
{
    int q;
    UNROLL for (q = 0; q < width; q++) {
        const __m512i integers = _mm512_max_epi32(scaled_avx512(sums[q], s, q), _mm512_setzero_si512());
        _mm_storeu_si128((__m128i *)(out + 16 * q), _mm512_cvtusepi32_epi8(integers));
    }
}

/* A register tile of a 1x1 convolution: `height` pixels by `width` x 16 outputs from `output` on. */
AVX512 INLINE void tile_avx512(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int output,
                               const Scaling *s, const int height, const int width)
{
    const int inputs = padded(l->inputs, 4), out_stride = padded(l->outputs, 16);
    const int8_t *weights = l->weights + output * inputs;
    __m512i sums[16];
    int i, p, q;
    UNROLL for (p = 0; p < height * width; p++)
        sums[p] = s->starts[p % width];
    for (i = 0; i < inputs; i += 4) {
        __m512i columns[4];
        UNROLL for (q = 0; q < width; q++)
            columns[q] = _mm512_loadu_si512(weights + (q * inputs + i) * 16);
        UNROLL for (p = 0; p < height; p++) {
            const __m512i pixel = _mm512_set1_epi32(four_bytes(in + p * stride + i));
            UNROLL for (q = 0; q < width; q++)
                sums[p * width + q] = add_products_avx512(sums[p * width + q], pixel, columns[q]);
        }
    }
    out += output;
    UNROLL for (p = 0; p < height * width / 4; p++)
        store_avx512(out + p * (4 / width) * out_stride, out_stride, sums + 4 * p, s, width);
    if (height * width < 4)
        store_pixel_avx512(out, sums, s, width);
}

/* All pixels by `width` x 16 outputs. */
AVX512 INLINE void strip_avx512(const Layer *l, const uint8_t *in, int stride, uint8_t *out, int pixels, int output,
                                const int height, const int width)
{
    const int out_stride = padded(l->outputs, 16);
    Scaling scaling;
    int p = 0;
    outputs_scaling_avx512(&scaling, l, output, width);
    for (; p + height <= pixels; p += height)
        tile_avx512(l, in + p * stride, stride, out + p * out_stride, output, &scaling, height, width);
    for (; p < pixels; p++)
        tile_avx512(l, in + p * stride, stride, out + p * out_stride, output, &scaling, 1, width);
}

AVX512 static void pointwise_avx512(const Layer *l, uint8_t *in, int stride, uint8_t *out, int pixels)
{
    const int outputs = padded(l->outputs, 16);
    int o = 0;
    for (; o + 64 <= outputs; o += 64)
        strip_avx512(l, in, stride, out, pixels, o, 4, 4);
    for (; o + 32 <= outputs; o += 32)
        strip_avx512(l, in, stride, out, pixels, o, 8, 2);
    for (; o < outputs; o += 16)
        strip_avx512(l, in, stride, out, pixels, o, 8, 1);
}

/* Depthwise convolutions work on four quarters of 16 channels: 64 channels of one place, or, as `wide` says, 32 of two
 * places or 16 of four. */

/* Quarter i is the 16 bytes at places[i / wide] + i % wide * apart. */
AVX512 INLINE __m512i quarters_avx512(const uint8_t *places[4], int apart, const int wide)
{
    __m512i quarters = _mm512_castsi128_si512(load16(places[0]));
    quarters = _mm512_inserti32x4(quarters, load16(places[1 / wide] + 1 % wide * apart), 1);
    quarters = _mm512_inserti32x4(quarters, load16(places[2 / wide] + 2 % wide * apart), 2);
    return _mm512_inserti32x4(quarters, load16(places[3 / wide] + 3 % wide * apart), 3);
}

/* The same of parameters, which are the same in every place. */
AVX512 INLINE __m512i repeated_avx512(const void *parameters, int apart, const int wide)
{
    const uint8_t *bytes = (const uint8_t *)parameters;
    const uint8_t *places[4] = {bytes, bytes, bytes, bytes};
    return quarters_avx512(places, apart, wide);
}

/* Column x of one row in every place. */
AVX512 INLINE __m512i pixels_avx512(const Line lines[4], intptr_t x, const int wide)
{
    const uint8_t *places[4];
    int p;
    for (p = 0; p < 4 / wide; p++)
        places[p] = lines[p].in + x * lines[p].step;
    if (wide == 4)
        return _mm512_loadu_si512(places[0]);
    if (wide == 2)
        return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)places[0])),
                                  _mm256_loadu_si256((const __m256i *)places[1]), 1);
    return quarters_avx512(places, 0, 1);
}

/* Four rows in column x: column[q] has channels 4 q to 4 q + 3 of every quarter, of each the four rows, which is what
 * vpdpbusd takes. */
AVX512 INLINE void column_avx512(__m512i column[4], Line lines[4][4], intptr_t x, const int wide)
{
    const __m512i a = pixels_avx512(lines[0], x, wide), b = pixels_avx512(lines[1], x, wide);
    const __m512i c = pixels_avx512(lines[2], x, wide), d = pixels_avx512(lines[3], x, wide);
    const __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
    const __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
    column[0] = _mm512_unpacklo_epi16(ab_low, cd_low);
    column[1] = _mm512_unpackhi_epi16(ab_low, cd_low);
    column[2] = _mm512_unpacklo_epi16(ab_high, cd_high);
    column[3] = _mm512_unpackhi_epi16(ab_high, cd_high);
}

/* 16 x `wide` channels from `c` on of some rows of a depthwise convolution. A place is two rows with stride 1, which
 * read the same four: the upper one with weights for the first three, the lower one with weights for the last three.
 * With stride 2 it is one row. Stride 1 is padded on every side. */
AVX512 INLINE void channels_avx512(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows, int c,
                                   const int wide, const int stride)
{
    const intptr_t apart = padded(l->inputs, 16), size = l->in_size, out_row = l->out_size * apart;
    const int at_once = stride == 1 ? 2 : 1, places = 4 / wide, last = rows > at_once ? rows - at_once : 0;
    __m512i weights[2][3][4];
    Scaling scaling;
    intptr_t x;
    int q, k, y, r, p;
    UNROLL for (q = 0; q < 4; q++) {
        UNROLL for (k = 0; k < 3; k++) {
            weights[0][k][q] = repeated_avx512(l->weights + c * 12 + k * 64 + q * 16, 3 * 64, wide);
            weights[1][k][q] = _mm512_slli_epi32(weights[0][k][q], 8);
        }
        set_scaling_avx512(&scaling, q, repeated_avx512(l->biases + c + 4 * q, 64, wide),
                           _mm512_castsi512_ps(repeated_avx512(l->factors + c + 4 * q, 64, wide)));
    }
    for (y = 0, out += c; y < rows; y += at_once * places) {
        Line lines[4][4];
        uint8_t *targets[4];
        __m512i left[4], middle[4], right[4];
        for (p = 0; p < places; p++) {
            const int first = smaller(y + p * at_once, last); /* the last place may be done twice */
            targets[p] = out + first * out_row;
            for (k = 0; k < 4; k++) /* with stride 2 there is no fourth row */
                lines[k][p] = line_of(l, in, k < 2 + at_once ? (row + first) * stride + k - l->top : -1, c);
        }
        UNROLL for (q = 0; q < 4; q++)
            left[q] = middle[q] = right[q] = _mm512_setzero_si512();
        if (stride == 1)
            column_avx512(middle, lines, 0, wide);
        else if (l->left == 0)
            column_avx512(left, lines, 0, wide);
        for (x = 0; x < l->out_size; x++) {
            const intptr_t last_column = x * stride + 2 - l->left;
            if (stride == 2)
                column_avx512(middle, lines, last_column - 1, wide);
            if (last_column < size)
                column_avx512(right, lines, last_column, wide);
            else {
                UNROLL for (q = 0; q < 4; q++)
                    right[q] = _mm512_setzero_si512();
            }
            UNROLL for (r = 0; r < at_once; r++) {
                __m512i sums[4];
                if (r == rows) /* a single one */
                    break;
                UNROLL for (q = 0; q < 4; q++) {
                    sums[q] = add_stored_products_avx512(scaling.starts[q], left[q], &weights[r][0][q]);
                    sums[q] = add_stored_products_avx512(sums[q], middle[q], &weights[r][1][q]);
                    sums[q] = add_stored_products_avx512(sums[q], right[q], &weights[r][2][q]);
                }
                sums[0] = packed_avx512(sums, &scaling);
                UNROLL for (p = 0; p < places; p++) {
                    uint8_t *target = targets[p] + r * out_row + x * apart;
                    if (wide == 4)
                        _mm512_storeu_si512(target, sums[0]);
                    else if (wide == 2)
                        _mm256_storeu_si256((__m256i *)target, p ? _mm512_extracti64x4_epi64(sums[0], 1)
                                                                 : _mm512_castsi512_si256(sums[0]));
                    else
                        _mm_storeu_si128((__m128i *)target, quarter_avx512(sums[0], p));
                }
            }
            UNROLL for (q = 0; q < 4; q++) {
                left[q] = stride == 1 ? middle[q] : right[q];
                middle[q] = right[q];
            }
        }
    }
}

AVX512 static void depthwise_avx512(const Layer *l, const uint8_t *in, uint8_t *out, int row, int rows)
{
    const int channels = padded(l->inputs, 16);
    int c = 0;
    for (; c + 64 <= channels; c += 64)
        if (l->stride == 1)
            channels_avx512(l, in, out, row, rows, c, 4, 1);
        else
            channels_avx512(l, in, out, row, rows, c, 4, 2);
    for (; c + 32 <= channels; c += 32)
        if (l->stride == 1)
            channels_avx512(l, in, out, row, rows, c, 2, 1);
        else
            channels_avx512(l, in, out, row, rows, c, 2, 2);
    if (c < channels && l->stride == 1)
        channels_avx512(l, in, out, row, rows, c, 1, 1);
    else if (c < channels)
        channels_avx512(l, in, out, row, rows, c, 1, 2);
}

/* A patch at the picture's border: only what is inside is loaded, over the padding. */
AVX512 INLINE void border_patch_avx512(const Layer *l, const uint8_t *image, uint8_t *out, int y, int x)
{
    const int top = y * l->stride - l->top, left = x * l->stride - l->left, size = l->in_size;
    const uint32_t row = (1u << PATCH_ROW) - 1;
    const uint32_t inside = left < 0 ? row - ((1u << COLOURS) - 1) : left + 2 < size ? row : row >> COLOURS;
    __m256i patch = _mm256_set1_epi8((char)PADDING);
    int k;
    for (k = 0; k < 3; k++)
        if (top + k >= 0 && top + k < size)
            patch = _mm256_mask_loadu_epi8(patch, inside << PATCH_ROW * k,
                                           image + ((top + k) * size + left) * COLOURS - PATCH_ROW * k);
    if (PATCH == 32)
        _mm256_storeu_si256((__m256i *)out, patch);
    else
        _mm_storeu_si128((__m128i *)out, _mm256_castsi256_si128(patch));
}

AVX512 static void patches_avx512(const Layer *l, const uint8_t *image, uint8_t *out, int row, int rows)
{
    int x, y;
    for (y = row; y < row + rows; y++, out += l->out_size * PATCH) {
        for (x = 0; x < l->left; x++)
            border_patch_avx512(l, image, out + x * PATCH, y, x);
        for (x = inner_patches(l, image, out, y); x < l->out_size; x++)
            border_patch_avx512(l, image, out + x * PATCH, y, x);
    }
}

AVX512 static void pool_avx512(const uint8_t *in, uint8_t *out, int pixels, int channels)
{
    const int stride = padded(channels, 16);
    int p, c;
    for (c = 0; c < channels; c += 16) {
        __m512i sums = _mm512_setzero_si512();
        for (p = 0; p < pixels; p++)
            sums = _mm512_add_epi32(sums, _mm512_cvtepu8_epi32(load16(in + p * stride + c)));
        sums = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), _mm512_set1_ps(POOL_FACTOR)));
        _mm_storeu_si128((__m128i *)(out + c), _mm512_cvtusepi32_epi8(sums));
    }
}

AVX512 static void classify_avx512(const Layer *l, const uint8_t *in, float *logits)
{
    const int inputs = padded(l->inputs, 4);
    int i, o, q;
    for (o = 0; o < l->outputs; o += 16) {
        const int8_t *weights = l->weights + o * inputs;
        const __mmask16 mask = (__mmask16)((1u << smaller(16, l->outputs - o)) - 1);
        __m512i sums[4];
        for (q = 0; q < 4; q++)
            sums[q] = _mm512_setzero_si512();
        sums[0] = _mm512_loadu_si512(l->biases + o);
        for (i = 0; i < inputs; i += 16)
            for (q = 0; q < 4 && i + 4 * q < inputs; q++)
                sums[q] = _mm512_dpbusd_epi32(sums[q], _mm512_set1_epi32(four_bytes(in + i + 4 * q)),
                                              _mm512_loadu_si512(weights + (i + 4 * q) * 16));
        sums[0] = _mm512_add_epi32(_mm512_add_epi32(sums[0], sums[1]), _mm512_add_epi32(sums[2], sums[3]));
        _mm512_mask_storeu_ps(logits + o, mask,
                              _mm512_mul_ps(_mm512_cvtepi32_ps(sums[0]), _mm512_loadu_ps(l->factors + o)));
    }
}

static int has_avx512(void)
{
    return has_x86(X86_AVX512_VNNI);
}

static const Kernels avx512_vnni_kernels = {has_avx512,  patches_avx512,  depthwise_avx512, pointwise_avx512,
                                            pool_avx512, classify_avx512, NULL, 0};

#endif

