// What the torch ops of attention share, whatever runs them: their signatures
// (csrc/registration.cpp) and what they return.
//
// gapless_positions tells kernels what query_position holds where they must know it before they are
// compiled, as Triton's. Those here look at the positions.
#pragma once

#include <array>
#include <tuple>

#include "attention/arguments.h"

namespace ptmkernels::attention {

// output (B, H, L, D), and the log-sum-exp (B, H, L) in float32.
using Attended = std::tuple<Tensor, Tensor>;

// Of query, key, value and the differentiable options in the order of the schema; empty where not
// wanted.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor,
                             Tensor, Tensor>;

inline Tensor new_lse(const Tensor& query) {
  const std::array<int64_t, 3> rows = {query.size(0), query.size(1), query.size(2)};
  return torch::stable::new_empty(query, rows, ScalarType::Float);
}

inline Tensor no_gradient(const Tensor& like) {
  return torch::stable::new_empty(like, std::array<int64_t, 1>{0});
}

// The gradient of an option, whole and contiguous, of another type while the kernels sum it up;
// empty where it is not wanted.
class OptionGradient {
 public:
  OptionGradient(const OptionalTensor& option, bool wanted, const Tensor& like,
                 ScalarType sum = ScalarType::Float)
      : dtype_(wanted ? option->scalar_type() : sum),
        wanted_(wanted),
        sum_(wanted ? torch::stable::new_empty(*option, option->sizes(), sum) : no_gradient(like)) {
  }

  Tensor& sum() { return sum_; }
  Scores scores() const { return wanted_ ? scores_of(sum_, dtype_of(sum_)) : Scores(); }
  Heads heads() const { return wanted_ ? repeating_heads_of(sum_) : Heads(); }
  float* data() const { return wanted_ ? static_cast<float*>(sum_.data_ptr()) : nullptr; }
  Tensor finish() const { return wanted_ ? torch::stable::to(sum_, dtype_) : sum_; }

 private:
  ScalarType dtype_;
  bool wanted_;
  Tensor sum_;
};

// kForward(query, key, value, arguments) -> Attended
// clang-format off: one line a parameter would hide what belongs together
template <auto kForward>
Attended attention_forward(
    const Tensor& query, const Tensor& key, const Tensor& value,
    const OptionalTensor& key_rank, const OptionalTensor& query_low, const OptionalTensor& query_high,
    const OptionalTensor& tree, const OptionalTensor& allowed,
    const OptionalTensor& bias, const OptionalTensor& bias_table, const OptionalTensor& bias_bucket,
    double scale, double dropout_p, const OptionalTensor& seed,
    const OptionalTensor& relative_key, const OptionalTensor& relative_value, int64_t relative_offset,
    const OptionalTensor& content_bias, const OptionalTensor& position_bias,
    const OptionalTensor& segment_bias, const OptionalTensor& segment_key,
    const OptionalTensor& query_segment, const OptionalTensor& key_segment,
    const OptionalTensor& query_position, int64_t /*gapless_positions*/) {
  return kForward(query, key, value, Arguments{
      key_rank, query_low, query_high, tree, allowed, bias, bias_table, bias_bucket,
      scale, dropout_p, seed, relative_key, relative_value, relative_offset,
      content_bias, position_bias, segment_bias, segment_key,
      query_segment, key_segment, query_position});
}

// kBackward(grad_output, grad_lse, query, key, value, output, lse, arguments, wanted_grads) ->
// Gradients, the last dimension of grad_output and all of grad_lse contiguous.
template <auto kBackward>
Gradients attention_backward(
    const Tensor& grad_output, const OptionalTensor& grad_lse,
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& output, const Tensor& lse,
    const OptionalTensor& key_rank, const OptionalTensor& query_low, const OptionalTensor& query_high,
    const OptionalTensor& tree, const OptionalTensor& allowed,
    const OptionalTensor& bias, const OptionalTensor& bias_table, const OptionalTensor& bias_bucket,
    double scale, double dropout_p, const OptionalTensor& seed,
    const OptionalTensor& relative_key, const OptionalTensor& relative_value, int64_t relative_offset,
    const OptionalTensor& content_bias, const OptionalTensor& position_bias,
    const OptionalTensor& segment_bias, const OptionalTensor& segment_key,
    const OptionalTensor& query_segment, const OptionalTensor& key_segment,
    const OptionalTensor& query_position, int64_t /*gapless_positions*/,
    int64_t wanted_grads) {
  const Tensor incoming =
      grad_output.stride(3) == 1 ? grad_output : torch::stable::contiguous(grad_output);
  OptionalTensor incoming_lse;
  if (grad_lse) incoming_lse = torch::stable::contiguous(*grad_lse);
  return kBackward(incoming, incoming_lse, query, key, value, output, lse, Arguments{
      key_rank, query_low, query_high, tree, allowed, bias, bias_table, bias_bucket,
      scale, dropout_p, seed, relative_key, relative_value, relative_offset,
      content_bias, position_bias, segment_bias, segment_key,
      query_segment, key_segment, query_position}, wanted_grads);
}
// clang-format on

}  // namespace ptmkernels::attention
