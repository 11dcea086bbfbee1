/* ---- Pixels of one byte of luma ------------------------------------------------------------------------------- */

static const uint8_t *read_row(void *source, int y)
{
    const Frame *f = (const Frame *)source;
    return f->pixels + (TOP + y) * f->stride + LEFT;
}
