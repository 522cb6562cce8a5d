// The arguments of the training step's torch op as plain data.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "word_vectors/step.h"

namespace ptmkernels {

template <class T>
const T* step_data(const std::optional<torch::stable::Tensor>& tensor) {
  return tensor ? static_cast<const T*>(tensor->data_ptr()) : nullptr;
}

// All but the seed, which lies on the device.
inline StepOptions step_options(const torch::stable::Tensor& input_weight,
                                const torch::stable::Tensor& output_weight,
                                const torch::stable::Tensor& tokens,
                                const std::optional<torch::stable::Tensor>& keep,
                                const std::optional<torch::stable::Tensor>& alias,
                                const std::optional<torch::stable::Tensor>& tree_offsets,
                                const std::optional<torch::stable::Tensor>& tree_path,
                                const std::optional<torch::stable::Tensor>& subword_offsets,
                                const std::optional<torch::stable::Tensor>& subwords,
                                int64_t max_subwords, bool cbow, int64_t window, int64_t negatives,
                                double learning_rate, double min_learning_rate, int64_t position,
                                int64_t total) {
  StepOptions options = {};
  options.input = input_weight.data_ptr();
  options.output = output_weight.data_ptr();
  options.input_stride = input_weight.stride(0);
  options.output_stride = output_weight.stride(0);
  options.width = static_cast<int32_t>(input_weight.size(1));
  options.bfloat16 = input_weight.scalar_type() == torch::headeronly::ScalarType::BFloat16;
  options.tokens = static_cast<const int32_t*>(tokens.data_ptr());
  options.token_count = tokens.size(0);
  options.position = position;
  options.keep = step_data<uint32_t>(keep);
  options.alias = step_data<int64_t>(alias);
  options.vocabulary = alias ? alias->size(0) : 0;
  options.negatives = static_cast<int32_t>(negatives);
  options.tree_offsets = step_data<int64_t>(tree_offsets);
  options.tree_path = step_data<int32_t>(tree_path);
  options.subword_offsets = step_data<int64_t>(subword_offsets);
  options.subwords = step_data<int32_t>(subwords);
  options.max_subwords = static_cast<int32_t>(max_subwords);
  options.cbow = cbow;
  options.window = static_cast<int32_t>(window);
  options.learning_rate = static_cast<float>(learning_rate);
  options.min_learning_rate = static_cast<float>(min_learning_rate);
  options.total = total;
  return options;
}

}  // namespace ptmkernels
