/* ---- All luma, then the colour differences of each two by two pixels --------------------------------------------- */

static const uint8_t *read_row(void *source, int y)
{
    const Frame *f = (const Frame *)source;
    const uint8_t *luma = f->pixels + (TOP + y) * f->stride + LEFT;
#if COLOURS == 1 && !LIMITED
    return luma;
#else
    const uint8_t *differences = f->pixels + (HEIGHT + (TOP + y) / 2) * f->stride + LEFT;
    uint8_t *out = f->line;
    int x;
    for (x = 0; x < COLUMNS; x += 2)
        out = put_pair(out, luma[x], luma[x + 1], differences[x + SWAPPED], differences[x + !SWAPPED]);
    return f->line;
#endif
}
