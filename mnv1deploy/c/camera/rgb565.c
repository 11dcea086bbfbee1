/* ---- Pixels of 16 bits: 5 of red, 6 of green, 5 of blue --------------------------------------------------------- */

static const uint8_t *read_row(void *source, int y)
{
    const Frame *f = (const Frame *)source;
    const uint8_t *in = f->pixels + (TOP + y) * f->stride + LEFT * 2;
    uint8_t *out = f->line;
    int x;
    for (x = 0; x < COLUMNS; x++, in += 2) {
        const int pixel = in[SWAPPED ? 1 : 0] | in[SWAPPED ? 0 : 1] << 8;
        /* value * 255 / 31, and / 63, rounded down: the same for every value */
        out = put_rgb(out, (pixel >> 11) * 1053 >> 7, (pixel >> 5 & 63) * 4145 >> 10, (pixel & 31) * 1053 >> 7);
    }
    return f->line;
}
