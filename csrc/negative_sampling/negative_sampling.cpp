// The torch ops of the negative-sampling loss on the CPU. With h the hidden row, w_t the target's
// output row and w_n those of the negatives (Mikolov et al. 2013, equation 4):
//   loss = -log sigmoid(h.w_t) - sum_n log sigmoid(-h.w_n)
// With log_noise the logits are h.w + b - log(k P(w)): noise-contrastive estimation (Gutmann and
// Hyvärinen 2012; Mnih and Teh 2012, equation 8). Nothing is checked here:
// ptmkernels/ops/negative_sampling has done so.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "common/philox.h"
#include "word_vectors/cpu/kernels.h"

namespace ptmkernels {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kGrain = 16;  // rows: below this a second thread costs more than it saves

struct Rows {
  const char* data;
  int64_t stride;  // bytes
  int64_t width;
  bool bfloat16;

  explicit Rows(const Tensor& t)
      : data(static_cast<const char*>(t.data_ptr())),
        stride(t.stride(0) * t.element_size()),
        width(t.size(1)),
        bfloat16(t.scalar_type() == ScalarType::BFloat16) {}
  const void* operator[](int64_t row) const { return data + row * stride; }
};

template <class T>
const T* data(const OptionalTensor& tensor) {
  return tensor ? static_cast<const T*>(tensor->data_ptr()) : nullptr;
}

float softplus(float x) { return (x > 0 ? x : 0) + std::log1p(std::exp(-std::abs(x))); }
float sigmoid(float x) {
  const float e = std::exp(-std::abs(x));
  return (x >= 0 ? 1.0f : e) / (1.0f + e);
}

// Draw n of row b: Philox counter (b low, b high, n / 2, 0), words 2 (n mod 2) for the cell and the
// one after it for the threshold.
int64_t draw(const int64_t* alias, uint64_t cells, uint64_t seed, int64_t b, int64_t n) {
  uint32_t words[4] = {static_cast<uint32_t>(b), static_cast<uint32_t>(b >> 32),
                       static_cast<uint32_t>(n / 2), 0};
  philox(words, seed);
  const uint32_t* pair = words + n % 2 * 2;
  const auto cell = static_cast<int64_t>(pair[0] * cells >> 32);
  const auto entry = static_cast<uint64_t>(alias[cell]);
  return pair[1] < static_cast<uint32_t>(entry >> 32) ? cell
                                                      : static_cast<int64_t>(entry & 0xffffffff);
}

// hidden (B, D), target (B,), weight (V, D), negatives (B, N) or alias (V,) and seed (1,), bias
// (V,), log_noise (V,) -> loss (B,), coefficient (B, 1 + N) = d loss / d logit, ids (B, 1 + N).
// `sparse` is the autograd formula's: which form the gradient of `weight` has.
std::tuple<Tensor, Tensor, Tensor> negative_sampling_forward(
    const Tensor& hidden, const Tensor& target, const Tensor& weight,
    const OptionalTensor& negatives, const OptionalTensor& alias, const OptionalTensor& seed,
    int64_t num_negatives, const OptionalTensor& bias, const OptionalTensor& log_noise,
    bool skip_target, bool sparse) {
  const WordVectorKernels& kernels = word_vector_kernels();
  const int64_t batch = hidden.size(0), count = num_negatives + 1;
  Tensor loss = torch::stable::empty({batch}, ScalarType::Float);
  Tensor coefficient = torch::stable::empty({batch, count}, ScalarType::Float);
  Tensor ids = torch::stable::empty({batch, count}, ScalarType::Long);
  const Rows h(hidden), w(weight);
  const auto* targets = static_cast<const int64_t*>(target.data_ptr());
  const auto* given = data<int64_t>(negatives);
  const auto* table = data<int64_t>(alias);
  const auto key = seed ? static_cast<uint64_t>(*data<int64_t>(seed)) : 0;
  const auto cells = static_cast<uint64_t>(alias ? alias->size(0) : 0);
  const auto* biases = data<float>(bias);
  const auto* noise = data<float>(log_noise);
  auto* losses = static_cast<float*>(loss.data_ptr());
  auto* coefficients = static_cast<float*>(coefficient.data_ptr());
  auto* used = static_cast<int64_t*>(ids.data_ptr());
  torch::stable::parallel_for(0, batch, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(h.width));
    for (int64_t b = begin; b < end; ++b) {
      kernels.widen(row.data(), h[b], h.bfloat16, h.width);
      double total = 0;
      for (int64_t o = 0; o < count; ++o) {
        const int64_t at = b * count + o;
        const int64_t id = o == 0  ? targets[b]
                           : given ? given[b * num_negatives + o - 1]
                                   : draw(table, cells, key, b, o - 1);
        used[at] = id;
        coefficients[at] = 0;
        if (o > 0 && skip_target && id == targets[b]) continue;
        float logit = kernels.product(row.data(), w[id], w.bfloat16, w.width);
        if (biases) logit += biases[id];
        if (noise) logit -= noise[id];
        total += softplus(o == 0 ? -logit : logit);
        coefficients[at] = o == 0 ? -sigmoid(-logit) : sigmoid(logit);
      }
      losses[b] = static_cast<float>(total);
    }
  });
  return {loss, coefficient, ids};
}

// grad (B,), the rest as above -> grad_hidden (B, D) float32; with dense: grad_weight (V, D)
// float32 and grad_bias (V,) float32, else both empty.
std::tuple<Tensor, Tensor, Tensor> negative_sampling_backward(const Tensor& grad,
                                                              const Tensor& hidden,
                                                              const Tensor& weight,
                                                              const Tensor& coefficient,
                                                              const Tensor& ids, bool dense) {
  const WordVectorKernels& kernels = word_vector_kernels();
  const int64_t batch = ids.size(0), count = ids.size(1);
  const Rows h(hidden), w(weight);
  const auto* upstream = static_cast<const float*>(grad.data_ptr());
  const auto* coefficients = static_cast<const float*>(coefficient.data_ptr());
  const auto* used = static_cast<const int64_t*>(ids.data_ptr());
  Tensor grad_hidden = torch::stable::empty({batch, h.width}, ScalarType::Float);
  torch::stable::zero_(grad_hidden);
  auto* gh = static_cast<float*>(grad_hidden.data_ptr());
  torch::stable::parallel_for(0, batch, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t at = begin * count; at < end * count; ++at) {
      const int64_t b = at / count;
      kernels.add(gh + b * h.width, upstream[b] * coefficients[at], w[used[at]], w.bfloat16,
                  w.width);
    }
  });
  const int64_t rows = dense ? weight.size(0) : 0;
  Tensor grad_weight = torch::stable::empty({rows, dense ? w.width : 0}, ScalarType::Float);
  Tensor grad_bias = torch::stable::empty({rows}, ScalarType::Float);
  if (!dense) return {grad_hidden, grad_weight, grad_bias};
  torch::stable::zero_(grad_weight);
  torch::stable::zero_(grad_bias);
  auto* gw = static_cast<float*>(grad_weight.data_ptr());
  auto* gb = static_cast<float*>(grad_bias.data_ptr());
  // Each share owns the rows of its residue class, so that the sums have one order and no two
  // writers.
  const int64_t shares = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t at = 0; at < batch * count; ++at) {
      const int64_t share = used[at] % shares;
      if (share < begin || share >= end) continue;
      const int64_t b = at / count;
      const float g = upstream[b] * coefficients[at];
      kernels.add(gw + used[at] * w.width, g, h[b], h.bfloat16, h.width);
      gb[used[at]] += g;
    }
  });
  return {grad_hidden, grad_weight, grad_bias};
}

}  // namespace
}  // namespace ptmkernels

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("negative_sampling_forward", TORCH_BOX(&ptmkernels::negative_sampling_forward));
  m.impl("negative_sampling_backward", TORCH_BOX(&ptmkernels::negative_sampling_backward));
}
