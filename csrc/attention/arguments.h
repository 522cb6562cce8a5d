// The arguments of the torch ops of attention as plain structs (params.h), for every backend.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "attention/params.h"

namespace ptmkernels::attention {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline DType dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::Double:
      return DType::kFloat64;
    default:
      return DType::kFloat32;
  }
}

inline Heads heads_of(const Tensor& tensor) {
  return {tensor.data_ptr(), dtype_of(tensor), tensor.stride(0), tensor.stride(1),
          tensor.stride(2)};
}

// A dimension of size 1 repeats.
inline int64_t repeating_stride(const Tensor& tensor, int64_t dim) {
  return tensor.size(dim) == 1 ? 0 : tensor.stride(dim);
}

// (B or 1, H or 1, rows, D)
inline Heads repeating_heads_of(const Tensor& tensor) {
  return {tensor.data_ptr(), dtype_of(tensor), repeating_stride(tensor, 0),
          repeating_stride(tensor, 1), tensor.stride(2)};
}

inline Scores scores_of(const Tensor& tensor, DType dtype) {
  return {tensor.data_ptr(),           dtype,
          repeating_stride(tensor, 0), repeating_stride(tensor, 1),
          repeating_stride(tensor, 2), repeating_stride(tensor, 3)};
}

template <class T>
const T* data_of(const OptionalTensor& tensor) {
  return tensor ? static_cast<const T*>(tensor->data_ptr()) : nullptr;
}

inline Sizes sizes_of(const Tensor& query, const Tensor& key) {
  return {query.size(0), query.size(1), key.size(1), query.size(2), key.size(2), query.size(3)};
}

inline bool is_empty(const Sizes& size) {
  return size.batches == 0 || size.heads == 0 || size.queries == 0 || size.keys == 0;
}

// (..., H, D) with the last dimension contiguous; (..., H, D) stands for B = 1 and one row.
inline Heads vectors_of(const OptionalTensor& tensor) {
  if (!tensor) return {};
  const int64_t head = tensor->dim() - 2;
  return {tensor->data_ptr(), dtype_of(*tensor), 0, tensor->stride(head),
          head > 0 ? tensor->stride(0) : 0};
}

inline Integers integers_of(const OptionalTensor& tensor) {
  if (!tensor) return {};
  return {data_of<int32_t>(tensor), repeating_stride(*tensor, 0)};
}

// The optional arguments of both ops, in the order of their schema.
struct Arguments {
  const OptionalTensor& key_rank;
  const OptionalTensor& query_low;
  const OptionalTensor& query_high;
  const OptionalTensor& tree;
  const OptionalTensor& allowed;
  OptionalTensor bias;  // its own: a backend may convert it
  const OptionalTensor& bias_table;
  const OptionalTensor& bias_bucket;
  double scale;
  double dropout_p;
  const OptionalTensor& seed;
  const OptionalTensor& relative_key;
  const OptionalTensor& relative_value;
  int64_t relative_offset;
  const OptionalTensor& content_bias;
  const OptionalTensor& position_bias;
  const OptionalTensor& segment_bias;
  const OptionalTensor& segment_key;
  const OptionalTensor& query_segment;
  const OptionalTensor& key_segment;
  const OptionalTensor& query_position;

  Mask mask() const {
    Mask mask;
    if (key_rank) {
      mask.rank = data_of<int32_t>(key_rank);
      mask.low = data_of<int32_t>(query_low);
      mask.high = data_of<int32_t>(query_high);
      mask.rank_batch = repeating_stride(*key_rank, 0);
      mask.low_batch = repeating_stride(*query_low, 0);
      mask.high_batch = repeating_stride(*query_high, 0);
    }
    if (tree) {
      mask.tree = data_of<int32_t>(tree);
      mask.tree_batch = repeating_stride(*tree, 0);
    }
    if (allowed) mask.allowed = scores_of(*allowed, DType::kByte);
    return mask;
  }

  Relative relative() const {
    Relative relative;
    if (relative_key) relative.key = repeating_heads_of(*relative_key);
    if (relative_value) relative.value = repeating_heads_of(*relative_value);
    if (relative_key) relative.rows = relative_key->size(2);
    relative.offset = relative_offset;
    relative.content_bias = vectors_of(content_bias);
    relative.position_bias = vectors_of(position_bias);
    relative.segment_bias = vectors_of(segment_bias);
    relative.segment_key = vectors_of(segment_key);
    relative.query_segment = integers_of(query_segment);
    relative.key_segment = integers_of(key_segment);
    relative.query_position = integers_of(query_position);
    return relative;
  }

  Options options() const {
    Options options;
    options.mask = mask();
    if (bias) options.bias = scores_of(*bias, dtype_of(*bias));
    if (bias_table) {
      options.table = bias_table->data_ptr();
      options.table_dtype = dtype_of(*bias_table);
      options.table_row = bias_table->stride(0);
      options.table_column = bias_table->stride(1);
      options.table_rows = bias_table->size(0);
      options.bucket = data_of<int32_t>(bias_bucket);
    }
    options.relative = relative();
    options.scale = static_cast<float>(scale);
    options.dropout = dropout_p;
    options.seed = data_of<int64_t>(seed);
    return options;
  }
};

inline Tensor new_contiguous(const Tensor& like) {
  return torch::stable::new_empty(like, like.sizes());
}

// In the layout of `like` where its last dimension has stride 1 there: what comes transposed goes
// back transposed, and autograd has nothing to copy.
inline Tensor new_in_layout(const Tensor& like) {
  const Tensor made = torch::stable::empty_like(like);
  return made.stride(3) == 1 ? made : new_contiguous(like);
}

inline ForwardParams forward_params(const Arguments& arguments, const Tensor& query,
                                    const Tensor& key, const Tensor& value, const Tensor& output,
                                    const Tensor& lse) {
  ForwardParams params;
  params.size = sizes_of(query, key);
  params.options = arguments.options();
  params.query = heads_of(query);
  params.key = heads_of(key);
  params.value = heads_of(value);
  params.output = heads_of(output);
  params.lse = static_cast<float*>(lse.data_ptr());
  return params;
}

// All but the gradients of the options; `forward` is that of the same call.
inline BackwardParams backward_params(const ForwardParams& forward, const Tensor& grad_output,
                                      const OptionalTensor& grad_lse, const Tensor& grad_query,
                                      const Tensor& grad_key, const Tensor& grad_value) {
  BackwardParams params;
  params.size = forward.size;
  params.options = forward.options;
  params.query = forward.query;
  params.key = forward.key;
  params.value = forward.value;
  params.output = forward.output;
  params.lse = forward.lse;
  params.grad_output = heads_of(grad_output);
  params.grad_lse = data_of<float>(grad_lse);
  params.grad_query = heads_of(grad_query);
  params.grad_key = heads_of(grad_key);
  params.grad_value = heads_of(grad_value);
  return params;
}

}  // namespace ptmkernels::attention
