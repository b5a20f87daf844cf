#include "trainer/eval/occlusion.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ------------------------------------------------------------------------------ grids */

enum status cell_grid_parse(struct cell_grid *out, const char *text, int32_t size_px)
{
    int rows = 0, columns = 0, read = 0;

    if (sscanf(text, "%5dx%5d%n", &rows, &columns, &read) != 2 || text[read] != '\0') {
        read = 0;
        if (sscanf(text, "%5d%n", &rows, &read) != 1 || text[read] != '\0')
            FAIL(STATUS_INVALID, "'%s' is no grid: wanted rows x columns, such as 4x8, or 14",
                 text);
        columns = rows;
    }
    if (rows < 1 || columns < 1 || rows > CELL_GRID_MAX || columns > CELL_GRID_MAX)
        FAIL(STATUS_INVALID, "grid '%s': wanted 1 to %d cells along each side", text,
             CELL_GRID_MAX);
    if (size_px % rows != 0 || size_px % columns != 0)
        FAIL(
            STATUS_INVALID,
            "grid '%s' does not divide pictures of %d px evenly: give numbers of cells that do, or "
            "another --crop_size",
            text, size_px);
    *out = (struct cell_grid){rows, columns};
    return STATUS_OK;
}

int32_t cell_count(double ratio, int32_t n)
{
    return (int32_t)floor(ratio * n + 1e-4); /* 0.7 of 10 are 7, though a float 0.7 is less */
}

void cell_permutation(int32_t *order, int32_t n, struct rng_key key)
{
    struct rng rng = rng_open(key);

    for (int32_t i = 0; i < n; i++)
        order[i] = i;
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = (int32_t)rng_below(&rng, (uint32_t)i + 1), held = order[i];
        order[i] = order[j];
        order[j] = held;
    }
}

/* ------------------------------------------------------------------------------ dropping */

void keep_outside_cells(uint8_t *keep, int32_t size_px, struct cell_grid grid, const int32_t *cells,
                        int32_t n_cells, int32_t offset_px)
{
    int32_t height = size_px / grid.rows, width = size_px / grid.columns;

    memset(keep, 1, (size_t)size_px * (size_t)size_px);
    for (int32_t i = 0; i < n_cells; i++) {
        int32_t top = cells[i] / grid.columns * height + offset_px;
        int32_t left = cells[i] % grid.columns * width + offset_px;
        for (int32_t y = top; y < top + height && y < size_px; y++)
            for (int32_t x = left; x < left + width && x < size_px; x++)
                keep[y * size_px + x] = 0;
    }
}

void keep_patches(uint8_t *keep, int32_t size_px, const uint8_t *chosen, int32_t side, bool inside)
{
    int32_t cell = size_px / side;

    for (int32_t y = 0; y < size_px; y++)
        for (int32_t x = 0; x < size_px; x++)
            keep[y * size_px + x] = (chosen[y / cell * side + x / cell] != 0) == inside;
}

double share_dropped(const uint8_t *keep, int32_t size_px)
{
    int64_t n = (int64_t)size_px * size_px, kept = 0;

    for (int64_t i = 0; i < n; i++)
        kept += keep[i];
    return (double)(n - kept) / (double)n;
}

void drop_pixels(float *values, const uint8_t *keep, int32_t size_px)
{
    int64_t n = (int64_t)size_px * size_px;

    for (int c = 0; c < 3; c++)
        for (int64_t i = 0; i < n; i++)
            if (keep[i] == 0)
                values[c * n + i] = 0.0f;
}

/* ------------------------------------------------------------------------------ shuffling */

void shuffle_cells(uint8_t *out, const uint8_t *rgb, int32_t size_px, struct cell_grid grid,
                   const int32_t *order)
{
    int32_t height = size_px / grid.rows, width = size_px / grid.columns;
    int64_t row = 3 * (int64_t)size_px;

    for (int32_t cell = 0; cell < grid.rows * grid.columns; cell++) {
        int32_t from = order[cell];
        uint8_t *to = out + cell / grid.columns * height * row + cell % grid.columns * width * 3;
        const uint8_t *source =
            rgb + from / grid.columns * height * row + from % grid.columns * width * 3;
        for (int32_t y = 0; y < height; y++)
            memcpy(to + y * row, source + y * row, 3 * (size_t)width);
    }
}
