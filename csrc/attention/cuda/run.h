// The host side of the CUDA kernels: from the structs of attention/params.h to launches. Knows
// nothing of torch: memory for the time of one op comes from a Workspace.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "attention/cuda/host.h"
#include "attention/cuda/instance.h"
#include "attention/cuda/prepare.cuh"
#include "attention/cuda/run_bias.h"
#include "attention/cuda/run_relative.h"
#include "attention/cuda/shapes.h"
#include "attention/cuda/tile_bounds.cuh"
#include "attention/params.h"

namespace ptmkernels::attention::cuda {

// f(Instance) for the type and the head dimension, padded to the next for which there are kernels.
template <typename T, typename F>
void with_head_dim(int64_t head_dim, bool relative, F&& f) {
  if (relative) {  // nearly all such models have D <= 64; kernels of 128 took too long to compile
    if (head_dim <= 64) return f(Instance<T, 64, true>());
    return f(Instance<T, 256, true>());
  }
  if (head_dim <= 32) return f(Instance<T, 32, false>());
  if (head_dim <= 64) return f(Instance<T, 64, false>());
  if (head_dim <= 128) return f(Instance<T, 128, false>());
  return f(Instance<T, 256, false>());
}

template <typename F>
void with_instance(DType dtype, int64_t head_dim, bool relative, F&& f) {
  switch (dtype) {
    case DType::kBFloat16:
      return with_head_dim<bfloat16>(head_dim, relative, f);
    case DType::kFloat16:
      return with_head_dim<float16>(head_dim, relative, f);
    default:
      return with_head_dim<float>(head_dim, relative, f);
  }
}

// What an Instance is one of.
template <typename Instance>
struct Traits;
template <typename T, int kHeadDim_, bool kRelative_>
struct Traits<Instance<T, kHeadDim_, kRelative_>> {
  using Element = T;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr bool kRelative = kRelative_;
  using Forward = ForwardShapeOf<T, kHeadDim, kRelative>;
  using Backward = BackwardShapeOf<T, kHeadDim, kRelative>;
};

inline ScoreOptions make_score_options(const Options& options, DType dtype,
                                       const float* distance_bias) {
  constexpr double kWords = 4294967296.0;
  ScoreOptions o{};
  const Mask& mask = options.mask;
  o.key_rank = mask.rank;
  o.query_low = mask.low;
  o.query_high = mask.high;
  o.key_rank_batch = mask.rank_batch;
  o.query_low_batch = mask.low_batch;
  o.query_high_batch = mask.high_batch;
  o.tree = mask.tree;
  o.tree_batch = mask.tree_batch;
  o.allowed = static_cast<const uint8_t*>(mask.allowed.data);
  o.allowed_batch = mask.allowed.batch;
  o.allowed_head = mask.allowed.head;
  o.hides_more = o.tree != nullptr || o.allowed != nullptr;
  const Scores& bias = options.bias;
  o.bias = bias.data;
  o.bias_batch = bias.batch;
  o.bias_head = bias.head;
  o.bias_row = bias.row;
  o.bias_col = bias.column;
  o.bias_is_float = bias.dtype == DType::kFloat32 && dtype != DType::kFloat32;
  o.distance_bias = distance_bias;
  o.scale = options.scale;
  o.scale_log2 = options.scale * kLog2e;
  o.scale_first = bias.data != nullptr || distance_bias != nullptr || !(options.scale > 0.0f);
  o.drops = options.dropout > 0.0;
  o.seed = options.seed;
  o.drop_below = static_cast<uint32_t>(std::floor(options.dropout * kWords));
  o.keep_scale = o.drops ? static_cast<float>(1.0 / (1.0 - options.dropout)) : 1.0f;
  return o;
}

// bias[h, d] of a bucketed bias, or null.
inline const float* run_distance_bias(const Queue& queue, Workspace& workspace, const Sizes& size,
                                      const Options& options) {
  if (options.table == nullptr) return nullptr;
  DistanceBiasParams p;
  p.heads = static_cast<int>(size.heads);
  p.distances = size.queries + size.keys - 1;
  p.table = options.table;
  p.dtype = options.table_dtype;
  p.row = options.table_row;
  p.column = options.table_column;
  p.bucket = options.bucket;
  p.bias = workspace.take<float>(p.heads * p.distances);
  launch<DistanceBiasKernel>(queue, DistanceBiasKernel::blocks(p), p);
  return p.bias;
}

// The bounds of tiles, collected and then computed by one launch.
class TileBoundsLists {
 public:
  TileBoundsLists(const Sizes& size, const Mask& mask, Workspace& workspace)
      : size_(size), mask_(mask), workspace_(workspace) {}

  TileBoundsList keys(int tile) {
    if (mask_.rank == nullptr) return {nullptr, 0};
    const int rows = mask_.rank_batch ? static_cast<int>(size_.batches) : 1;
    return add({mask_.rank, nullptr, mask_.rank_batch, 0, rows, static_cast<int>(size_.keys)},
               tile);
  }

  TileBoundsList queries(int tile) {
    if (mask_.rank == nullptr) return {nullptr, 0};
    const int rows = mask_.low_batch || mask_.high_batch ? static_cast<int>(size_.batches) : 1;
    return add({mask_.low, mask_.high, mask_.low_batch, mask_.high_batch, rows,
                static_cast<int>(size_.queries)},
               tile);
  }

  // The least and greatest position of groups of queries.
  TileBoundsList positions(const Integers& position) {
    if (position.data == nullptr) return {nullptr, 0};
    const int rows = position.batch ? static_cast<int>(size_.batches) : 1;
    return add({position.data, position.data, position.batch, position.batch, rows,
                static_cast<int>(size_.queries)},
               kPositionGroup);
  }

  void run(const Queue& queue) {
    if (p_.jobs == 0) return;
    launch<TileBoundsKernel>(queue, p_.first_block[p_.jobs], p_);
  }

 private:
  TileBoundsList add(TileBoundsJob job, int tile) {
    job.tile_size = tile;
    job.tiles = (job.length + tile - 1) / tile;
    job.bounds = workspace_.take<TileBounds>(static_cast<int64_t>(job.rows) * job.tiles);
    p_.job[p_.jobs] = job;
    p_.first_block[p_.jobs + 1] = p_.first_block[p_.jobs] + TileBoundsKernel::blocks_of(job);
    ++p_.jobs;
    return {job.bounds, job.rows > 1 ? job.tiles : 0};
  }

  const Sizes& size_;
  const Mask& mask_;
  Workspace& workspace_;
  TileBoundsParams p_{};
};

// `p` is the common part of ForwardParams and BackwardParams.
template <typename Source>
void fill_params(Params& p, const Source& source, const float* distance_bias, bool exact) {
  const Sizes& size = source.size;
  p.batch = static_cast<int>(size.batches);
  p.heads = static_cast<int>(size.heads);
  p.key_heads = static_cast<int>(size.key_heads);
  p.group = p.heads / p.key_heads;
  p.query_len = static_cast<int>(size.queries);
  p.key_len = static_cast<int>(size.keys);
  p.head_dim = static_cast<int>(size.dimension);
  p.exact = exact;
  p.query = make_rows(source.query, size.dimension);
  p.key = make_rows(source.key, size.dimension);
  p.value = make_rows(source.value, size.dimension);
  p.options = make_score_options(source.options, source.query.dtype, distance_bias);
  if (is_relative(source.options)) p.relative = make_relative(source.options.relative, size);
}

inline void run_forward(const Queue& queue, Workspace& workspace,
                        const attention::ForwardParams& source, bool exact) {
  const Sizes& size = source.size;
  ForwardParams p{};
  const float* bias = run_distance_bias(queue, workspace, size, source.options);
  fill_params(p, source, bias, exact);
  p.output = source.output.data;
  p.lse = source.lse;
  with_instance(
      source.query.dtype, size.dimension, is_relative(source.options), [&](auto instance) {
        using Kind = Traits<decltype(instance)>;
        using Shape = typename Kind::Forward;
        using T = typename Kind::Element;
        TileBoundsLists lists(size, source.options.mask, workspace);
        p.query_bounds = lists.queries(Shape::kRows);
        p.key_bounds = lists.keys(Shape::kCols);
        p.relative.position_bounds = lists.positions(source.options.relative.query_position);
        lists.run(queue);
        if constexpr (Kind::kRelative) {
          run_relative_terms<T>(queue, workspace, p, source.options.relative);
        }
        const int64_t rows = size.batches * size.heads * size.queries;
        const int64_t blocks =
            size.batches * size.heads * ((size.queries + Shape::kRows - 1) / Shape::kRows);
        const int64_t key_tiles = (size.keys + Shape::kCols - 1) / Shape::kCols;
        p.splits = splits_of(blocks, key_tiles, queue.multiprocessors());
        if (p.splits > 1) {
          p.split_output = workspace.take<float>(p.splits * rows * size.dimension);
          p.split_maximum = workspace.take<float>(p.splits * rows);
          p.split_sum = workspace.take<float>(p.splits * rows);
        }
        instance.forward(queue, p);
        if (p.splits == 1) return;
        const CombineParams combine{
            rows,        p.splits, p.head_dim, p.split_output, p.split_maximum,
            p.split_sum, p.output, p.lse};
        launch<CombineKernel<T>>(queue, CombineKernel<T>::blocks(combine), combine);
      });
}

// The gradient of the output with the factors of each row (ScaleRowsKernel) in it.
template <typename T, typename Shape, typename Instance>
const float* normalise(const Queue& queue, Workspace& workspace, Instance instance,
                       const attention::BackwardParams& source, BackwardParams& p) {
  if (p.options.bias == nullptr && p.options.distance_bias == nullptr) return nullptr;
  const int64_t rows = source.size.batches * source.size.heads * source.size.queries;
  ForwardParams f{};
  static_cast<Params&>(f) = p;
  TileBoundsLists lists(source.size, source.options.mask, workspace);
  f.query_bounds = lists.queries(Shape::kRows);
  f.key_bounds = lists.keys(Shape::kCols);
  lists.run(queue);
  f.options.seed = nullptr;
  f.splits = 1;
  f.lse = const_cast<float*>(source.lse);
  f.factors = workspace.take<float>(rows);
  instance.forward(queue, f);
  const ScaleRowsParams scale{p.batch,
                              p.heads,
                              p.query_len,
                              p.head_dim,
                              p.grad_output,
                              f.factors,
                              workspace.take<T>(rows * p.head_dim)};
  launch<ScaleRowsKernel<T>>(queue, ScaleRowsKernel<T>::blocks(scale), scale);
  const int64_t head = static_cast<int64_t>(p.query_len) * p.head_dim;
  const Heads scaled = {scale.scaled, source.query.dtype, p.heads * head, head, p.head_dim};
  p.grad_output = make_rows(scaled, p.head_dim);
  return f.factors;
}

template <typename T>
void run_row_statistics(const Queue& queue, Workspace& workspace, BackwardParams& p,
                        const attention::BackwardParams& source, const float* factors) {
  const Sizes& size = source.size;
  const int64_t rows = size.batches * size.heads * size.queries;
  RowStatisticsParams s;
  s.batch = p.batch;
  s.heads = p.heads;
  s.query_len = p.query_len;
  s.head_dim = p.head_dim;
  s.output = make_rows(source.output, size.dimension);
  s.grad_output = p.grad_output;
  s.lse = source.lse;
  s.grad_lse = source.grad_lse;
  s.factors = factors;
  s.scale_first = p.options.scale_first;
  p.row_lse = s.row_lse = workspace.take<float>(rows);
  p.delta = s.delta = workspace.take<float>(rows);
  launch<RowStatisticsKernel<T>>(queue, RowStatisticsKernel<T>::blocks(s), s);
}

inline void run_backward(const Queue& queue, Workspace& workspace,
                         const attention::BackwardParams& source, bool exact) {
  const Sizes& size = source.size;
  BackwardParams p{};
  const float* bias = run_distance_bias(queue, workspace, size, source.options);
  fill_params(p, source, bias, exact);
  p.grad_output = make_rows(source.grad_output, size.dimension);
  p.grad_query = source.grad_query.data;
  p.grad_key = source.grad_key.data;
  p.grad_value = source.grad_value.data;
  with_instance(
      source.query.dtype, size.dimension, is_relative(source.options), [&](auto instance) {
        using Kind = Traits<decltype(instance)>;
        using Shape = typename Kind::Backward;
        using T = typename Kind::Element;
        TileBoundsLists lists(size, source.options.mask, workspace);
        const TileBoundsList own_queries = lists.queries(Shape::kRows),
                             keys = lists.keys(Shape::kCols);
        const TileBoundsList own_keys = lists.keys(Shape::kRows),
                             queries = lists.queries(Shape::kCols);
        const bool with_bias = source.grad_bias.data != nullptr || source.grad_table != nullptr;
        TileBoundsList bias_queries{}, bias_keys{};
        if (with_bias) {
          bias_queries = lists.queries(kBiasTile);
          bias_keys = lists.keys(kBiasTile);
        }
        TileBoundsList row_queries{}, row_keys{};
        if constexpr (Kind::kRelative) {
          using RowsShape = RelativeGradientShape<T, Kind::kHeadDim>;
          row_queries = lists.queries(RowsShape::kRows);
          row_keys = lists.keys(RowsShape::kCols);
        }
        p.relative.position_bounds = lists.positions(source.options.relative.query_position);
        lists.run(queue);
        if constexpr (Kind::kRelative) {
          run_relative_terms<T>(queue, workspace, p, source.options.relative);
          take_sums(workspace, p);
        }
        const float* const factors =
            normalise<T, typename Kind::Forward>(queue, workspace, instance, source, p);
        run_row_statistics<T>(queue, workspace, p, source, factors);
        p.own_bounds = own_queries;
        p.other_bounds = keys;
        instance.backward_queries(queue, p);
        p.own_bounds = own_keys;
        p.other_bounds = queries;
        instance.backward_keys(queue, p);
        if constexpr (Kind::kRelative) {
          p.own_bounds = row_queries;
          p.other_bounds = row_keys;
          run_relative_gradients<T, Kind::kHeadDim>(queue, workspace, p, source);
        }
        if (!with_bias) return;
        p.own_bounds = bias_queries;
        p.other_bounds = bias_keys;
        run_bias_gradients<T, Kind::kRelative>(queue, workspace, p, source);
      });
}

}  // namespace ptmkernels::attention::cuda
