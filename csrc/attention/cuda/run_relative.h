// The host side of the relative terms: what the kernels read of them beside the tensors, and their
// gradients (relative_gradient.cuh, relative_sums.cuh).
#pragma once

#include "attention/cuda/host.h"
#include "attention/cuda/instance.h"
#include "attention/cuda/prepare.cuh"
#include "attention/cuda/relative_gradient.cuh"
#include "attention/cuda/relative_sums.cuh"
#include "attention/params.h"

namespace ptmkernels::attention::cuda {

inline bool is_relative(const Options& options) { return options.relative.key.data != nullptr; }

inline RelativeTerms make_relative(const Relative& relative, const Sizes& size) {
  const int64_t d = size.dimension;
  RelativeTerms t{};
  t.key = make_rows(relative.key, d);
  t.value = make_rows(relative.value, d);
  t.rows = static_cast<int>(relative.rows);
  t.offset = relative.offset;
  t.query_segment = relative.query_segment.data;
  t.key_segment = relative.key_segment.data;
  t.query_position = relative.query_position.data;
  t.query_segment_batch = relative.query_segment.batch;
  t.key_segment_batch = relative.key_segment.batch;
  t.query_position_batch = relative.query_position.batch;
  t.content_bias = make_rows(relative.content_bias, d);
  t.position_bias = make_rows(relative.position_bias, d);
  t.segment_key = make_rows(relative.segment_key, d);
  return t;
}

// (batches, H, length) numbers (x + shift) . vector.
template <typename T>
void run_row_products(const Queue& queue, const Params& p, int batches, int length, const Rows& x,
                      int heads_each, const Rows& shift, const Rows& vector, float* product) {
  const RowProductsParams r{batches, p.heads, length, p.head_dim, heads_each,
                            x,       shift,   vector, product};
  launch<RowProductsKernel<T>>(queue, RowProductsKernel<T>::blocks(r), r);
}

// Row `row` of each head's vectors.
template <typename T>
Rows vector_of(Rows vectors, int row) {
  vectors.data = static_cast<const T*>(vectors.data) + row * vectors.row;
  return vectors;
}

// u.k, v.r and the segment terms.
template <typename T>
void run_relative_terms(const Queue& queue, Workspace& workspace, Params& p,
                        const Relative& relative) {
  RelativeTerms& t = p.relative;
  const int64_t heads = static_cast<int64_t>(p.batch) * p.heads;
  if (t.content_bias.data != nullptr) {
    float* content = workspace.take<float>(heads * p.key_len);
    run_row_products<T>(queue, p, p.batch, p.key_len, p.key, p.group, {}, t.content_bias, content);
    t.content = content;
  }
  if (t.position_bias.data != nullptr) {
    const int batches = t.key.batch ? p.batch : 1;
    float* position = workspace.take<float>(static_cast<int64_t>(batches) * p.heads * t.rows);
    run_row_products<T>(queue, p, batches, t.rows, t.key, 1, {}, t.position_bias, position);
    t.position = position;
    t.position_batch = t.key.batch ? static_cast<int64_t>(p.heads) * t.rows : 0;
  }
  if (t.segment_key.data != nullptr) {
    float* segment = workspace.take<float>(2 * heads * p.query_len);
    const Rows shift = make_rows(relative.segment_bias, p.head_dim);
    for (int differs = 0; differs < 2; ++differs) {
      run_row_products<T>(queue, p, p.batch, p.query_len, p.query, 1, shift,
                          vector_of<T>(t.segment_key, differs),
                          segment + differs * heads * p.query_len);
    }
    t.segment = segment;
  }
}

// The sums of dS that the backward kernels leave.
inline void take_sums(Workspace& workspace, Params& p) {
  RelativeTerms& t = p.relative;
  const int64_t heads = static_cast<int64_t>(p.batch) * p.heads;
  if (t.content != nullptr) t.key_change = workspace.take<float>(heads * p.key_len);
  if (t.segment != nullptr) t.segment_change = workspace.take<float>(2 * heads * p.query_len);
}

// gradient (elements) = sum of `parts` partial ones.
template <typename T>
void run_reduce(const Queue& queue, const float* partial, int parts, int64_t elements,
                float* gradient) {
  const SumPartsParams reduce{partial, parts, elements, gradient, true};
  launch<SumPartsKernel<T>>(queue, SumPartsKernel<T>::blocks(reduce), reduce);
}

// gradient (H, D) = scale sum weight (x + shift).
template <typename T>
void run_weighted_rows(const Queue& queue, Workspace& workspace, const Params& p,
                       WeightedRowsParams w, float* gradient) {
  w.heads = p.heads;
  w.head_dim = p.head_dim;
  w.scale = p.options.scale;
  const int64_t rows = WeightedRowsKernel<T>::rows(w);
  w.splits = static_cast<int>((rows + WeightedRowsKernel<T>::kRowsPerSplit - 1) /
                              WeightedRowsKernel<T>::kRowsPerSplit);
  const int64_t elements = static_cast<int64_t>(p.heads) * p.head_dim;
  w.sum = w.splits == 1 ? gradient : workspace.take<float>(w.splits * elements);
  launch<WeightedRowsKernel<T>>(queue, WeightedRowsKernel<T>::blocks(w), w);
  if (w.splits > 1) run_reduce<T>(queue, w.sum, w.splits, elements, gradient);
}

// The gradient of r, with that of v, or of rv; `p` has the bounds of the kernel's tiles.
template <typename T, int kHeadDim>
void run_rows_gradient(const Queue& queue, Workspace& workspace, RelativeGradientParams p,
                       bool of_value, const Heads& gradient, float* grad_position_bias) {
  const RelativeTerms& t = p.relative;
  const Rows& source = of_value ? t.value : t.key;
  const bool wanted = gradient.data != nullptr;
  p.of_value = of_value;
  p.own_batches = (wanted ? gradient.batch : source.batch) ? p.batch : 1;
  p.one_head = (wanted ? gradient.head : source.head) == 0 && p.heads > 1;
  p.splits = RelativeInstance<T, kHeadDim>::splits(queue, p);
  const int parts = p.splits * (p.one_head ? p.heads : 1);
  const int64_t elements =
      static_cast<int64_t>(p.own_batches) * (p.one_head ? 1 : p.heads) * t.rows * p.head_dim;
  const bool in_place = parts == 1 && wanted;
  p.gradient =
      in_place ? static_cast<float*>(gradient.data) : workspace.take<float>(parts * elements);
  if (!of_value && t.position != nullptr) {
    p.row_change =
        workspace.take<float>(static_cast<int64_t>(p.splits) * p.own_batches * p.heads * t.rows);
  }
  RelativeInstance<T, kHeadDim>::gradient(queue, p);
  if (wanted && !in_place) {
    run_reduce<T>(queue, p.gradient, parts, elements, static_cast<float*>(gradient.data));
  }
  if (grad_position_bias == nullptr) return;
  WeightedRowsParams w{};
  w.groups = p.splits;
  w.batches = p.own_batches;
  w.length = t.rows;
  w.heads_each = 1;
  w.weight = p.row_change;
  w.x = t.key;
  run_weighted_rows<T>(queue, workspace, p, w, grad_position_bias);
}

// The gradients of the vectors of a head that come from the backward kernels' sums.
template <typename T>
void run_vector_gradients(const Queue& queue, Workspace& workspace, const BackwardParams& p,
                          const attention::BackwardParams& source) {
  const RelativeTerms& t = p.relative;
  WeightedRowsParams w{};
  w.groups = 1;
  w.batches = p.batch;
  if (source.grad_content_bias) {
    w.length = p.key_len;
    w.heads_each = p.group;
    w.weight = t.key_change;
    w.x = p.key;
    run_weighted_rows<T>(queue, workspace, p, w, source.grad_content_bias);
  }
  w.length = p.query_len;
  w.heads_each = 1;
  const int64_t each = static_cast<int64_t>(p.batch) * p.heads * p.query_len;
  for (int differs = 0; differs < 2 && source.grad_segment_key; ++differs) {
    w.weight = t.segment_change + differs * each;
    w.x = p.query;
    w.shift = make_rows(source.options.relative.segment_bias, p.head_dim);
    run_weighted_rows<T>(queue, workspace, p, w,
                         source.grad_segment_key + differs * p.heads * p.head_dim);
  }
  if (!source.grad_segment_bias) return;
  w.groups = 2;
  w.weight = t.segment_change;
  w.x = t.segment_key;
  w.x_group = w.x.row;
  w.x.row = 0;
  w.shift = {};
  run_weighted_rows<T>(queue, workspace, p, w, source.grad_segment_bias);
}

template <typename T, int kHeadDim>
void run_relative_gradients(const Queue& queue, Workspace& workspace, const BackwardParams& common,
                            const attention::BackwardParams& source) {
  RelativeGradientParams p{};
  static_cast<BackwardParams&>(p) = common;
  if (source.grad_relative_key.data || source.grad_position_bias) {
    run_rows_gradient<T, kHeadDim>(queue, workspace, p, false, source.grad_relative_key,
                                   source.grad_position_bias);
  }
  if (source.grad_relative_value.data) {
    run_rows_gradient<T, kHeadDim>(queue, workspace, p, true, source.grad_relative_value, nullptr);
  }
  run_vector_gradients<T>(queue, workspace, common, source);
}

}  // namespace ptmkernels::attention::cuda
