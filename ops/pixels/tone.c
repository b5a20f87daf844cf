/* Source: the arithmetic of Pillow's ImageOps and timm's auto_augment, as formulas. */
#include "ops/pixels/tone.h"

#include <string.h>

static void map(uint8_t *bytes, size_t n, const uint8_t table[256])
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = table[bytes[i]];
}

/* Four counters of each value, since neighbours are often alike and would wait for each other. */
static void count(uint64_t histogram[256], const uint8_t *bytes, size_t n)
{
    uint32_t counts[4][256];
    size_t i = 0;

    memset(histogram, 0, 256 * sizeof(histogram[0]));
    memset(counts, 0, sizeof(counts));
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++)
            counts[k][bytes[i + k]]++;
    for (; i < n; i++)
        counts[0][bytes[i]]++;
    for (int v = 0; v < 256; v++)
        histogram[v] = (uint64_t)counts[0][v] + counts[1][v] + counts[2][v] + counts[3][v];
}

static uint8_t to_byte(int32_t value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

void tone_autocontrast(struct planes *planes)
{
    for (int c = 0; c < 3; c++) {
        uint64_t histogram[256];
        uint8_t table[256];
        int low = 0, high = 255;
        count(histogram, planes->channel[c], planes_n_pixels(planes));
        while (low < 255 && histogram[low] == 0)
            low++;
        while (high > 0 && histogram[high] == 0)
            high--;
        if (high <= low)
            continue;
        double scale = 255.0 / (high - low), offset = -low * scale;
        for (int v = 0; v < 256; v++)
            table[v] = to_byte((int32_t)(v * scale + offset));
        map(planes->channel[c], planes_n_pixels(planes), table);
    }
}

void tone_equalize(struct planes *planes)
{
    for (int c = 0; c < 3; c++) {
        uint64_t histogram[256], n = planes_n_pixels(planes);
        uint8_t table[256];
        int last = 255;
        count(histogram, planes->channel[c], n);
        while (last > 0 && histogram[last] == 0)
            last--;
        uint64_t step = (n - histogram[last]) / 255, sum = step / 2;
        if (step == 0)
            continue; /* one value alone, too: then none is left */
        for (int v = 0; v < 256; v++) {
            uint64_t value = sum / step;
            table[v] = (uint8_t)(value > 255 ? 255 : value);
            sum += histogram[v];
        }
        map(planes->channel[c], n, table);
    }
}

void tone_posterize(struct planes *planes, int32_t n_bits)
{
    uint8_t mask = (uint8_t)(0xff00 >> n_bits);

    for (int c = 0; c < 3; c++)
        for (size_t i = 0, n = planes_n_pixels(planes); i < n; i++)
            planes->channel[c][i] &= mask;
}

void tone_solarize_add(struct planes *planes, int32_t amount)
{
    uint8_t table[256];

    for (int v = 0; v < 256; v++)
        table[v] = v < 128 ? to_byte(v + amount) : (uint8_t)v;
    for (int c = 0; c < 3; c++)
        map(planes->channel[c], planes_n_pixels(planes), table);
}
