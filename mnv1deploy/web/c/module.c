/* The WebAssembly module: the network, and what makes its picture of pixels of any size. It imports nothing. */
#include "$name.h"

#include <string.h>

#define EXPORT(name) __attribute__((export_name(#name))) name
#define SIZE ${NAME}_SIZE
#define COLOURS ${NAME}_COLOURS
#define CROP $crop   /* the part that is kept, of a side */
#define FILTER $filter /* of the six below */
#define PAGE 65536   /* bytes by which memory grows */

$resize
static uint8_t image[${NAME}_IMAGE_BYTES] __attribute__((aligned(16)));
static float logits[${NAME}_CLASSES] __attribute__((aligned(16)));
static uint8_t scratch[${NAME}_SCRATCH] __attribute__((aligned(64)));

uint8_t *EXPORT(image_address)(void)
{
    return image;
}

float *EXPORT(logits_address)(void)
{
    return logits;
}

int EXPORT(image_size)(void)
{
    return SIZE;
}

int EXPORT(image_colours)(void)
{
    return COLOURS;
}

int EXPORT(class_count)(void)
{
    return ${NAME}_CLASSES;
}

/* That logits are divided by before a softmax makes probabilities of them. */
double EXPORT(temperature)(void)
{
    return ${NAME}_TEMPERATURE;
}

/* UTF-8, ends with a zero. */
const char *EXPORT(class_name)(int number)
{
    return ${name}_classes[number];
}

/* The image becomes the logits. */
void EXPORT(run)(void)
{
    ${name}_run(image, logits, scratch);
}

/* ---- The filters: how much a pixel at a distance weighs, as Pillow has them ---------------------------------------- */

enum { NEAREST, BOX, BILINEAR, HAMMING, BICUBIC, LANCZOS };

static const double reaches[] = {0.5, 0.5, 1.0, 1.0, 2.0, 3.0};

static double size_of(double x)
{
    return x < 0 ? -x : x;
}

static int lesser(int a, int b)
{
    return a < b ? a : b;
}

/* The sine of at most ten in size: Taylor's series of what is left beyond multiples of pi, which are taken off in two
 * parts, the first of them exactly. Weights are rounded to 22 bits afterwards. */
static double sine(double x)
{
    const int turns = (int)(x / 3.141592653589793 + (x < 0 ? -0.5 : 0.5));
    const double rest = x - turns * 3.1415926218032837 - turns * 3.178650954705639e-08, square = rest * rest;
    double sum = 0;
    int n;
    for (n = 25; n > 1; n -= 2)
        sum = (1 + sum) * -square / (n * (n - 1));
    return turns % 2 ? -rest * (1 + sum) : rest * (1 + sum);
}

static double sinc(double x)
{
    const double angle = x * 3.141592653589793;
    return x == 0 ? 1.0 : sine(angle) / angle;
}

static double weight(double x)
{
    const double far = size_of(x);
    switch (FILTER) {
    case BOX:
        return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
    case BILINEAR:
        return far < 1.0 ? 1.0 - far : 0.0;
    case HAMMING: /* its constants are float; a cosine is a sine a quarter further */
        return far < 1.0 ? sinc(x) * ((double)0.54f + (double)0.46f * sine(1.5707963267948966 - far * 3.141592653589793))
                         : 0.0;
    case BICUBIC:
        if (far < 1.0)
            return ((-0.5 + 2.0) * far - (-0.5 + 3.0)) * far * far + 1;
        return far < 2.0 ? (((far - 5) * far + 8) * far - 4) * -0.5 : 0.0;
    case LANCZOS:
        return x >= -3.0 && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0;
    default:
        return 1.0;
    }
}

/* ---- The tables of resize(): as mnv1deploy/c/resampling.py computes them -------------------------------------------- */

/* What one axis of a picture becomes: `source` pixels, of which `start` to `end` are kept. */
typedef struct {
    int source;
    float start, end; /* a box is float32 in Pillow, and so is its length */
} Axis;

static double scale_of_axis(const Axis *a)
{
    return (double)(a->end - a->start) / SIZE;
}

/* The most weights that a window can have. */
static int widest(const Axis *a)
{
    const double scale = scale_of_axis(a);
    return (int)(2 * reaches[FILTER] * (scale > 1 ? scale : 1)) + 2;
}

/* Fills SIZE windows and the weights from `next` on; returns what comes behind those. */
static int windows(const Axis *a, Window *out, int32_t *table, int next)
{
    const double scale = scale_of_axis(a), stretch = scale > 1 ? scale : 1, reach = reaches[FILTER] * stretch;
    const double shrink = 1.0 / stretch;
    double place = a->start + scale * 0.5;
    int i, x;
    for (i = 0; i < SIZE; i++, place += scale) {
        const double centre = a->start + (i + 0.5) * scale;
        int first = (int)(centre - reach + 0.5), last = (int)(centre + reach + 0.5);
        double total = 0;
        if (FILTER == NEAREST) {
            first = lesser((int)place, a->source - 1);
            last = first + 1;
        }
        first = first < 0 ? 0 : first;
        last = lesser(last, a->source);
        for (x = first; x < last; x++)
            total += weight((x - centre + 0.5) * shrink);
        out[i].first = first;
        out[i].count = last - first;
        out[i].weights = next;
        for (x = first; x < last; x++) {
            double share = weight((x - centre + 0.5) * shrink);
            if (FILTER == NEAREST)
                share = 1;
            else if (total != 0)
                share /= total;
            table[next++] = (int32_t)(share * (1 << WEIGHT_BITS) + (share < 0 ? -0.5 : 0.5));
        }
    }
    return next;
}

static void axes_of(int width, int height, Axis *across, Axis *down)
{
    const double bleed = (1 - CROP) / 2; /* as Pillow's ImageOps.fit */
    const double inner_width = width - bleed * width * 2, inner_height = height - bleed * height * 2;
    const double side = inner_width < inner_height ? inner_width : inner_height;
    const double left = bleed * width + (inner_width - side) * 0.5, top = bleed * height + (inner_height - side) * 0.5;
    across->source = width;
    across->start = (float)left;
    across->end = (float)(left + side);
    down->source = height;
    down->start = (float)top;
    down->end = (float)(top + side);
}

/* ---- A picture of any size ----------------------------------------------------------------------------------------- */

extern uint8_t __heap_base; /* the linker's: the first byte that nothing has */

/* Where what the picture needs lies behind that byte; pixels are red, green, blue, opacity. */
typedef struct {
    Window *across, *down;
    int32_t *weights;
    uint8_t *rows, *line, *pixels;
    int held;
} Space;

/* Returns the bytes of all of it. */
static uint64_t space_of(int width, int height, Space *space)
{
    const uintptr_t start = ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15;
    Axis across, down;
    uint64_t end = start;
    axes_of(width, height, &across, &down);
    space->held = widest(&down);
#define TAKE(field, count) \
    space->field = (void *)(uintptr_t)end; \
    end = (end + (uint64_t)(count) * sizeof *space->field + 15) / 16 * 16;
    TAKE(across, SIZE)
    TAKE(down, SIZE)
    TAKE(weights, (uint64_t)SIZE * (uint64_t)(widest(&across) + widest(&down)))
    TAKE(rows, (uint64_t)space->held * SIZE * COLOURS)
    TAKE(line, (uint64_t)width * COLOURS)
    TAKE(pixels, (uint64_t)width * (uint64_t)height * 4)
#undef TAKE
    return end;
}

/* Where a picture's pixels are to be written, [height][width][4], before read_picture(); NULL if memory is short. */
uint8_t *EXPORT(picture_address)(int width, int height)
{
    Space space;
    uint64_t end, there = (uint64_t)__builtin_wasm_memory_size(0) * PAGE;
    if (width < 1 || height < 1)
        return NULL;
    end = space_of(width, height, &space);
    if (end > there && (end > 0xFFFF0000u || __builtin_wasm_memory_grow(0, (size_t)((end - there + PAGE - 1) / PAGE)) ==
                                                 (size_t)-1))
        return NULL;
    return space.pixels;
}

/* One row of the picture. */
typedef struct {
    const uint8_t *pixels;
    int width;
    uint8_t *line;
} Picture;

/* A colour laid over white, in the integers of Pillow's alpha_composite. */
INLINE int over_white(int colour, int opacity)
{
    const int sum = ((colour * opacity + 255 * (255 - opacity)) << 7) + (0x80 << 7);
    return ((sum >> 8) + sum) >> 8 >> 7;
}

/* Without transparency and, for a grey network, as ITU-R 601's luma. */
static const uint8_t *read_row(void *source, int y)
{
    const Picture *p = (const Picture *)source;
    const uint8_t *in = p->pixels + (size_t)y * (size_t)p->width * 4, *end = in + (size_t)p->width * 4;
    uint8_t *out = p->line;
    for (; in < end; in += 4, out += COLOURS) {
        const int red = over_white(in[0], in[3]), green = over_white(in[1], in[3]), blue = over_white(in[2], in[3]);
#if COLOURS == 3
        out[0] = (uint8_t)red;
        out[1] = (uint8_t)green;
        out[2] = (uint8_t)blue;
#else
        out[0] = (uint8_t)((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16);
#endif
    }
    return p->line;
}

/* The image becomes the network's picture of the pixels at picture_address(width, height). */
void EXPORT(read_picture)(int width, int height)
{
    Space space;
    Picture picture;
    space_of(width, height, &space);
    picture.pixels = space.pixels;
    picture.width = width;
    picture.line = space.line;
    if (width == SIZE && height == SIZE) { /* its exact pixels */
        int y;
        for (y = 0; y < SIZE; y++)
            memcpy(image + y * SIZE * COLOURS, read_row(&picture, y), SIZE * COLOURS);
    } else {
        Axis across, down;
        Resize sizes = {SIZE, COLOURS, space.held, space.across, space.down, space.weights};
        axes_of(width, height, &across, &down);
        windows(&down, space.down, space.weights, windows(&across, space.across, space.weights, 0));
        resize(&sizes, read_row, &picture, space.rows, image);
    }
}

/* ---- What the compiler calls ----------------------------------------------------------------------------------------- */

#undef memcpy
#undef memset

void *memcpy(void *restrict to, const void *restrict from, size_t count)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    while (count--)
        *out++ = *in++;
    return to;
}

void *memset(void *to, int value, size_t count)
{
    uint8_t *out = to;
    while (count--)
        *out++ = (uint8_t)value;
    return to;
}
