/* Maps of tokens on CUDA: masking, merging, means. Copies and short sums, one read and one write an
 * element; a warp a row, or a thread the four columns of a map. */
#include "ops/region.h"

#include "kernels/column_sums.cuh"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4 };

/* Groups as a kernel takes them: by value, with the first row of each in the other array. */
struct region_place {
    int64_t first_row, other_row, n_images, side;
};

struct region_list {
    region_place groups[REGION_MAX_GROUPS];
    int32_t n;
};

static region_list list_of(const struct region_group *groups, int32_t n, int64_t n_rows)
{
    region_list list = {};

    CHECK(n >= 0 && n <= REGION_MAX_GROUPS);
    list.n = n;
    for (int32_t g = 0; g < n; g++) {
        CHECK(groups[g].first_row >= 0 && groups[g].n_images >= 0 && groups[g].side >= 1 &&
              groups[g].first_row + groups[g].n_images * groups[g].side * groups[g].side <= n_rows);
        list.groups[g] = {groups[g].first_row, 0, groups[g].n_images, groups[g].side};
    }
    return list;
}

/* Tokens of all groups together. */
static int64_t count_tokens(const region_list &list)
{
    int64_t n = 0;

    for (int32_t g = 0; g < list.n; g++)
        n += list.groups[g].n_images * list.groups[g].side * list.groups[g].side;
    return n;
}

/* The group that the i-th of all tokens is in; i becomes its number there. */
__device__ __forceinline__ int group_of(const region_list &list, int64_t &i)
{
    int g = 0;

    for (; g + 1 < list.n; g++) {
        int64_t n = list.groups[g].n_images * list.groups[g].side * list.groups[g].side;
        if (i < n)
            break;
        i -= n;
    }
    return g;
}

/* May rows of d be read in packs of four? Absent ones may. */
static bool packed(const struct tensor *tensor, int64_t d)
{
    return is_packed(tensor->data, d, tensor->dtype, PACK * dtype_size_bytes(tensor->dtype));
}

/* ------------------------------------------------------------------------------ masking */

/* The mask cell of token i. */
__device__ __forceinline__ int64_t cell_of(int64_t i, int side, int cells)
{
    int repeat = side / cells;
    int64_t image = i / (side * side);
    int inside = (int)(i - image * (side * side));

    return (image * cells + inside / side / repeat) * cells + inside % side / repeat;
}

template <int WIDTH, class X>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    region_mask(X *__restrict__ x, const uint8_t *__restrict__ mask,
                const float *__restrict__ token, int64_t n, int32_t d, int side, int cells)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        if (mask[cell_of(row, side, cells)] == 0)
            continue;
        for (int j = lane_of_warp() * WIDTH; j < d; j += WARP * WIDTH) {
            float value[WIDTH];
            load_pack<WIDTH>(value, token + j);
            store_pack<WIDTH>(x + row * d + j, value);
        }
    }
}

/* The gradient of the mask token; on the way what is masked becomes 0. */
template <class X> struct masked_sums {
    enum { SUMS = 1 };
    X *d_x;
    const uint8_t *mask;
    float *d_token; /* or absent */
    int64_t d;
    int side, cells;

    template <int W> struct item {
        float value[W];
        bool masked;
    };

    template <int W> __device__ void load(item<W> &to, int64_t row, int64_t column) const
    {
        to.masked = mask[cell_of(row, side, cells)] != 0;
        if (to.masked)
            load_pack<W>(to.value, d_x + row * d + column);
    }

    template <int W>
    __device__ void add(double (&sum)[1][W], const item<W> &from, int64_t row, int64_t column) const
    {
        float zeros[W] = {};

        if (!from.masked)
            return;
#pragma unroll
        for (int j = 0; j < W; j++)
            sum[0][j] += (double)from.value[j];
        store_pack<W>(d_x + row * d + column, zeros);
    }

    __device__ void finish(int, int64_t column, double total) const
    {
        if (d_token != nullptr)
            d_token[column] += (float)total;
    }
};

static void check_mask(const struct tensor *x, const struct tensor *mask, int64_t side,
                       int64_t cells)
{
    CHECK(side >= 1 && cells >= 1 && side % cells == 0 && side <= INT16_MAX,
          "%lld cells over a side of %lld tokens", static_cast<long long>(cells),
          static_cast<long long>(side));
    CHECK(x->rank == 2 && x->shape[0] % (side * side) == 0 && x->shape[1] <= INT32_MAX);
    CHECK(mask->dtype == DTYPE_U8 &&
          tensor_is_1d(mask, x->shape[0] / (side * side) * cells * cells));
}

enum status region_mask_cuda(struct device *device, const struct region_mask_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    bool wide = packed(&args->x, d) && packed(&args->mask_token, d);

    check_mask(&args->x, &args->mask, args->side, args->cells);
    CHECK(args->mask_token.data != nullptr && tensor_is_1d(&args->mask_token, d));
    return with_float_type(args->x.dtype, "region_mask: x", [&](auto x) {
        using X = typename decltype(x)::type;
        return launch(device, "region_mask", row_blocks(device, n), ROW_THREADS, 0,
                      wide ? region_mask<PACK, X> : region_mask<1, X>, data_of<X>(args->x),
                      data_of<uint8_t>(args->mask), data_of<float>(args->mask_token), n,
                      static_cast<int32_t>(d), static_cast<int>(args->side),
                      static_cast<int>(args->cells));
    });
}

enum status region_mask_backward_cuda(struct device *device,
                                      const struct region_mask_backward_args *args)
{
    int64_t n = args->d_x.shape[0], d = args->d_x.shape[1];

    check_mask(&args->d_x, &args->mask, args->side, args->cells);
    CHECK(args->d_mask_token.data == nullptr || tensor_is_1d(&args->d_mask_token, d));
    return with_float_type(args->d_x.dtype, "region_mask_backward: d_x", [&](auto x) {
        using X = typename decltype(x)::type;
        masked_sums<X> sums = {data_of<X>(args->d_x),
                               data_of<uint8_t>(args->mask),
                               data_of<float>(args->d_mask_token),
                               d,
                               static_cast<int>(args->side),
                               static_cast<int>(args->cells)};
        return column_sums(device, "region_mask_backward", n, d, packed(&args->d_x, d), sums);
    });
}

/* ------------------------------------------------------------------------------ merging */

/* Copies between a token's quarter of a wide row and the narrow row it comes from, in units. A warp
 * a quarter. BACK: from wide to narrow; what lies past an odd side has no narrow row. */
template <bool BACK, class U>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    merge_rows(U *__restrict__ out, const U *__restrict__ in, region_list narrow, region_list wide,
               int64_t n, int32_t units)
{
    for (int64_t i = first_row(); i < 4 * n; i += row_stride()) {
        int quarter = (int)(i % 4);
        int64_t token = i / 4;
        int g = group_of(wide, token);
        int side = (int)wide.groups[g].side, from_side = (int)narrow.groups[g].side;
        int64_t image = token / (side * side);
        int inside = (int)(token - image * (side * side));
        int y = 2 * (inside / side) + quarter % 2, x = 2 * (inside % side) + quarter / 2;
        bool there = y < from_side && x < from_side;
        int64_t row = narrow.groups[g].first_row + (image * from_side + y) * from_side + x;
        int64_t part = ((wide.groups[g].first_row + token) * 4 + quarter) * units;
        if (BACK && !there)
            continue;
        for (int j = lane_of_warp(); j < units; j += WARP) {
            if (BACK) {
                out[row * units + j] = in[part + j];
            } else {
                U value = {};
                if (there)
                    value = in[row * units + j];
                out[part + j] = value;
            }
        }
    }
}

/* Calls f with the widest unit that narrow rows of both arrays are made of. */
template <class F>
static enum status with_unit(const struct tensor *narrow, const struct tensor *wide, const F &f)
{
    int64_t c = narrow->shape[1];
    auto made_of = [&](size_t bytes) {
        return is_packed(narrow->data, c, narrow->dtype, bytes) &&
               is_packed(wide->data, c, wide->dtype, bytes);
    };
    if (made_of(sizeof(uint4)))
        return f(type_tag<uint4>{});
    return made_of(sizeof(uint32_t)) ? f(type_tag<uint32_t>{}) : f(type_tag<uint16_t>{});
}

template <bool BACK>
static enum status merge(struct device *device, const struct tensor *narrow,
                         const struct tensor *wide, const struct region_group *from,
                         const struct region_group *to, int32_t n_groups)
{
    CHECK(narrow->rank == 2 && wide->rank == 2 && wide->shape[1] == 4 * narrow->shape[1]);
    CHECK(narrow->dtype == wide->dtype);
    if (narrow->dtype != DTYPE_F32 && narrow->dtype != DTYPE_BF16)
        FAIL(STATUS_UNSUPPORTED, "patch_merge: dtype %d; the CUDA op takes f32 or bf16",
             static_cast<int>(narrow->dtype));
    region_list narrow_list = list_of(from, n_groups, narrow->shape[0]);
    region_list wide_list = list_of(to, n_groups, wide->shape[0]);
    for (int32_t g = 0; g < n_groups; g++)
        CHECK(to[g].n_images == from[g].n_images && to[g].side == (from[g].side + 1) / 2 &&
              from[g].side <= INT16_MAX);
    int64_t n = count_tokens(wide_list);
    const struct tensor *in = BACK ? wide : narrow, *out = BACK ? narrow : wide;
    return with_unit(narrow, wide, [&](auto unit) {
        using U = typename decltype(unit)::type;
        size_t units =
            static_cast<size_t>(narrow->shape[1]) * dtype_size_bytes(narrow->dtype) / sizeof(U);
        return launch(device, "merge_rows", row_blocks(device, 4 * n), ROW_THREADS, 0,
                      merge_rows<BACK, U>, data_of<U>(*out), data_of<U>(*in), narrow_list,
                      wide_list, n, static_cast<int32_t>(units));
    });
}

enum status patch_merge_cuda(struct device *device, const struct patch_merge_args *args)
{
    return merge<false>(device, &args->x, &args->y, args->from, args->to, args->n_groups);
}

enum status patch_merge_backward_cuda(struct device *device,
                                      const struct patch_merge_backward_args *args)
{
    return merge<true>(device, &args->d_x, &args->d_y, args->from, args->to, args->n_groups);
}

/* ------------------------------------------------------------------------------ means */

/* A thread WIDTH columns of a map: copies them and writes their mean before them. */
template <int WIDTH, class X>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    region_mean(X *__restrict__ y, const X *__restrict__ x, region_list list, int64_t n_images,
                int32_t d)
{
    int32_t across = d / WIDTH;

    for (int64_t i = first_element(); i < n_images * across; i += element_stride()) {
        int64_t image = i / across;
        int column = (int)(i - image * across) * WIDTH, g = 0;
        for (; g + 1 < list.n && image >= list.groups[g].n_images; g++)
            image -= list.groups[g].n_images;
        int n = (int)(list.groups[g].side * list.groups[g].side);
        const X *from = x + (list.groups[g].first_row + image * n) * d + column;
        X *to = y + (list.groups[g].other_row + image * (n + 1)) * d + column;
        double sum[WIDTH] = {};
        float mean[WIDTH];
#pragma unroll 4
        for (int token = 0; token < n; token++) {
            float value[WIDTH];
            load_pack<WIDTH>(value, from + (int64_t)token * d);
            store_pack<WIDTH>(to + (int64_t)(token + 1) * d, value);
#pragma unroll
            for (int j = 0; j < WIDTH; j++)
                sum[j] += (double)value[j];
        }
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            mean[j] = (float)(sum[j] / (double)n);
        store_pack<WIDTH>(to, mean);
    }
}

/* A warp a token. */
template <int WIDTH, class X>
__global__ void __launch_bounds__(ROW_THREADS, 2)
    region_mean_backward(X *__restrict__ d_x, const X *__restrict__ d_y, region_list list,
                         int64_t n_tokens, int32_t d)
{
    for (int64_t row = first_row(); row < n_tokens; row += row_stride()) {
        int64_t token = row;
        int g = group_of(list, token), n = (int)(list.groups[g].side * list.groups[g].side);
        int64_t image = token / n;
        float share = 1.0f / (float)n;
        const X *mean = d_y + (list.groups[g].other_row + image * (n + 1)) * d;
        const X *own = mean + (1 + token - image * n) * d;
        X *to = d_x + (list.groups[g].first_row + token) * d;
        for (int j = lane_of_warp() * WIDTH; j < d; j += WARP * WIDTH) {
            float value[WIDTH], all[WIDTH];
            load_pack<WIDTH>(value, own + j);
            load_pack<WIDTH>(all, mean + j);
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                value[k] += share * all[k];
            store_pack<WIDTH>(to + j, value);
        }
    }
}

/* The groups of `tokens` (first_row) with their places in `with_mean` (other_row). */
static region_list list_with_means(const struct region_group *groups, const int64_t *to_row,
                                   int32_t n_groups, const struct tensor *tokens,
                                   const struct tensor *with_mean)
{
    region_list list = list_of(groups, n_groups, tokens->shape[0]);

    CHECK(tokens->rank == 2 && with_mean->rank == 2 && tokens->shape[1] == with_mean->shape[1]);
    CHECK(tokens->dtype == with_mean->dtype && tokens->shape[1] <= INT32_MAX);
    for (int32_t g = 0; g < list.n; g++) {
        int64_t n = list.groups[g].side * list.groups[g].side;
        CHECK(n <= INT32_MAX && to_row[g] >= 0 &&
              to_row[g] + list.groups[g].n_images * (n + 1) <= with_mean->shape[0]);
        list.groups[g].other_row = to_row[g];
    }
    return list;
}

enum status region_mean_cuda(struct device *device, const struct region_mean_args *args)
{
    int64_t d = args->x.shape[1], n_images = 0;
    region_list list =
        list_with_means(args->groups, args->to_row, args->n_groups, &args->x, &args->y);
    bool wide = packed(&args->x, d) && packed(&args->y, d);

    for (int32_t g = 0; g < list.n; g++)
        n_images += list.groups[g].n_images;
    return with_float_type(args->x.dtype, "region_mean: x", [&](auto x) {
        using X = typename decltype(x)::type;
        return launch(device, "region_mean",
                      element_blocks(device, n_images * (wide ? d / PACK : d)), ROW_THREADS, 0,
                      wide ? region_mean<PACK, X> : region_mean<1, X>, data_of<X>(args->y),
                      data_of<X>(args->x), list, n_images, static_cast<int32_t>(d));
    });
}

enum status region_mean_backward_cuda(struct device *device,
                                      const struct region_mean_backward_args *args)
{
    int64_t d = args->d_x.shape[1];
    region_list list =
        list_with_means(args->groups, args->to_row, args->n_groups, &args->d_x, &args->d_y);
    bool wide = packed(&args->d_x, d) && packed(&args->d_y, d);
    int64_t n = count_tokens(list);

    return with_float_type(args->d_x.dtype, "region_mean_backward: d_x", [&](auto x) {
        using X = typename decltype(x)::type;
        return launch(device, "region_mean_backward", row_blocks(device, n), ROW_THREADS, 0,
                      wide ? region_mean_backward<PACK, X> : region_mean_backward<1, X>,
                      data_of<X>(args->d_x), data_of<X>(args->d_y), list, n,
                      static_cast<int32_t>(d));
    });
}
