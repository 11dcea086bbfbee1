/* ---- Colours: the bits of Pillow's conversions, in integers ------------------------------------------------------ */

typedef struct {
    const uint8_t *pixels;
    int stride;    /* bytes from one row to the next */
    uint8_t *line; /* a row of the part that is read, as RGB or luma */
} Frame;

/* A pixel, of COLOURS values; returns where the next one goes. */
INLINE uint8_t *put_rgb(uint8_t *out, int red, int green, int blue)
{
#if COLOURS == 3
    out[0] = (uint8_t)red;
    out[1] = (uint8_t)green;
    out[2] = (uint8_t)blue;
#else
    out[0] = (uint8_t)((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16); /* ITU-R 601's luma */
#endif
    return out + COLOURS;
}

INLINE int clipped(int value)
{
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

/* Luma of 16 to 235 as luma of 0 to 255; values below 16 become 0. */
INLINE int full_luma(int luma)
{
    return LIMITED ? clipped(((luma < 16 ? 0 : luma - 16) * 510 + 219) / 438) : luma;
}

/* What a colour difference of -128 to 127, from 16 to 240 or 0 to 255, adds to a colour in units of 2^-6, rounded
 * towards zero as the division is; `weight` is in units of 2^-22. */
INLINE int32_t difference(int value, int32_t weight)
{
    /* the sum before the division is positive, for it to round down */
    const int full = LIMITED ? clipped((value * 510 + 224 + 448 * 147) / 448 - 147 + 128) - 128 : value;
    return (full * weight + 32768) / 65536;
}

/* Floor of a value in units of 2^-6, without a shift of what may be negative. */
INLINE int floor_64(int32_t value)
{
    return (int)((value + (1 << 20)) >> 6) - (1 << 14);
}

/* Two pixels that share their colour differences. */
INLINE uint8_t *put_pair(uint8_t *out, int first, int second, int blueness, int redness)
{
    first = full_luma(first);
    second = full_luma(second);
#if COLOURS == 3
    {
        const int red = floor_64(difference(redness - 128, 5880414));
        const int green = floor_64(difference(blueness - 128, -1443428) + difference(redness - 128, -2995320));
        const int blue = floor_64(difference(blueness - 128, 7432307));
        out = put_rgb(out, clipped(first + red), clipped(first + green), clipped(first + blue));
        return put_rgb(out, clipped(second + red), clipped(second + green), clipped(second + blue));
    }
#else
    (void)blueness;
    (void)redness;
    out[0] = (uint8_t)first;
    out[1] = (uint8_t)second;
    return out + 2;
#endif
}
