/* ---- Pixels of a byte for each colour --------------------------------------------------------------------------- */

static const uint8_t *read_row(void *source, int y)
{
    const Frame *f = (const Frame *)source;
    const uint8_t *in = f->pixels + (TOP + y) * f->stride + LEFT * 3;
#if COLOURS == 3 && !SWAPPED
    return in;
#else
    uint8_t *out = f->line;
    int x;
    for (x = 0; x < COLUMNS; x++, in += 3)
        out = put_rgb(out, in[SWAPPED ? 2 : 0], in[1], in[SWAPPED ? 0 : 2]);
    return f->line;
#endif
}
