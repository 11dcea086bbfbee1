/* ---- Two pixels in four bytes: a luma of each, and the colour differences of both -------------------------------- */

static const uint8_t *read_row(void *source, int y)
{
    const Frame *f = (const Frame *)source;
    const uint8_t *in = f->pixels + (TOP + y) * f->stride + LEFT * 2;
    uint8_t *out = f->line;
    int x;
    for (x = 0; x < COLUMNS; x += 2, in += 4)
        out = put_pair(out, in[SWAPPED ? 1 : 0], in[SWAPPED ? 3 : 2], in[SWAPPED ? 0 : 1], in[SWAPPED ? 2 : 3]);
    return f->line;
}
