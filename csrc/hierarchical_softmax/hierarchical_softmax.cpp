// The torch ops of the hierarchical softmax on the CPU. Along the path of the target from the root,
// with node rows v_t and code bits c_t (Morin and Bengio 2005; Mikolov et al. 2013, equation 3):
//   loss = sum_t -log sigmoid((1 - 2 c_t) h.v_t)
// Nothing is checked here: ptmkernels/ops/hierarchical_softmax has done so.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "word_vectors/cpu/kernels.h"

namespace ptmkernels {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kGrain = 16;  // rows: below this a second thread costs more than it saves

// One call: hidden (B, D), target (B,), node_weight (V - 1, D), offsets (V + 1,), path.
struct Paths {
  const WordVectorKernels& kernels = word_vector_kernels();
  const Tensor& hidden;
  const Tensor& weight;
  int64_t batch, width;
  const int64_t* target;
  const int64_t* offsets;
  const int32_t* path;

  Paths(const Tensor& h, const Tensor& t, const Tensor& w, const Tensor& o, const Tensor& p)
      : hidden(h),
        weight(w),
        batch(h.size(0)),
        width(h.size(1)),
        target(static_cast<const int64_t*>(t.data_ptr())),
        offsets(static_cast<const int64_t*>(o.data_ptr())),
        path(static_cast<const int32_t*>(p.data_ptr())) {}

  static const void* row(const Tensor& t, int64_t index) {
    return static_cast<const char*>(t.data_ptr()) + index * t.stride(0) * t.element_size();
  }
  static bool bfloat16(const Tensor& t) { return t.scalar_type() == ScalarType::BFloat16; }

  // Calls visit(entry of the path, sign * h.v) along the path of row b; `h` is scratch of D floats.
  template <class Visit>
  void walk(int64_t b, float* h, const Visit& visit) const {
    kernels.widen(h, row(hidden, b), bfloat16(hidden), width);
    for (int64_t p = offsets[target[b]]; p < offsets[target[b] + 1]; ++p) {
      const float x = kernels.product(h, row(weight, path[p] >> 1), bfloat16(weight), width);
      visit(path[p], path[p] & 1 ? -x : x);
    }
  }
};

// -> loss (B,). `depth`, the length of the longest path, is for other backends; `sparse` is the
// autograd formula's: which form the gradient of `node_weight` has.
Tensor hierarchical_softmax_forward(const Tensor& hidden, const Tensor& target,
                                    const Tensor& node_weight, const Tensor& offsets,
                                    const Tensor& path, int64_t depth, bool sparse) {
  const Paths paths(hidden, target, node_weight, offsets, path);
  Tensor loss = torch::stable::empty({paths.batch}, ScalarType::Float);
  auto* losses = static_cast<float*>(loss.data_ptr());
  torch::stable::parallel_for(0, paths.batch, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> h(static_cast<size_t>(paths.width));
    for (int64_t b = begin; b < end; ++b) {
      double total = 0;
      paths.walk(b, h.data(), [&](int32_t, float x) {
        total += (x < 0 ? -x : 0) + std::log1p(std::exp(-std::abs(x)));
      });
      losses[b] = static_cast<float>(total);
    }
  });
  return loss;
}

// -> grad_hidden (B, D) float32; with dense: grad_weight (V - 1, D) float32, else empty.
std::tuple<Tensor, Tensor> hierarchical_softmax_backward(const Tensor& grad, const Tensor& hidden,
                                                         const Tensor& target,
                                                         const Tensor& node_weight,
                                                         const Tensor& offsets, const Tensor& path,
                                                         int64_t depth, bool dense) {
  const Paths paths(hidden, target, node_weight, offsets, path);
  const int64_t width = paths.width;
  const auto* upstream = static_cast<const float*>(grad.data_ptr());
  std::vector<int64_t> starts = {0};  // of each row's coefficients
  for (int64_t b = 0; b < paths.batch; ++b) {
    starts.push_back(starts.back() + paths.offsets[paths.target[b] + 1] -
                     paths.offsets[paths.target[b]]);
  }
  std::vector<float> coefficients(static_cast<size_t>(starts.back()));
  Tensor grad_hidden = torch::stable::empty({paths.batch, width}, ScalarType::Float);
  torch::stable::zero_(grad_hidden);
  auto* gh = static_cast<float*>(grad_hidden.data_ptr());
  torch::stable::parallel_for(0, paths.batch, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> h(static_cast<size_t>(width));
    for (int64_t b = begin; b < end; ++b) {
      float* coefficient = coefficients.data() + starts[b];
      paths.walk(b, h.data(), [&](int32_t entry, float x) {
        const float wrong = 1.0f / (1.0f + std::exp(x));  // 1 - sigmoid(x)
        *coefficient = upstream[b] * (entry & 1 ? wrong : -wrong);
        paths.kernels.add(gh + b * width, *coefficient++, Paths::row(node_weight, entry >> 1),
                          Paths::bfloat16(node_weight), width);
      });
    }
  });
  Tensor grad_weight =
      torch::stable::empty({dense ? node_weight.size(0) : 0, dense ? width : 0}, ScalarType::Float);
  if (!dense) return {grad_hidden, grad_weight};
  torch::stable::zero_(grad_weight);
  auto* gw = static_cast<float*>(grad_weight.data_ptr());
  // Each share owns the nodes of its residue class, so that the sums have one order and no two
  // writers.
  const int64_t shares = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = 0; b < paths.batch; ++b) {
      const float* coefficient = coefficients.data() + starts[b];
      for (int64_t p = paths.offsets[paths.target[b]]; p < paths.offsets[paths.target[b] + 1];
           ++p, ++coefficient) {
        const int64_t node = paths.path[p] >> 1;
        if (node % shares < begin || node % shares >= end) continue;
        paths.kernels.add(gw + node * width, *coefficient, Paths::row(hidden, b),
                          Paths::bfloat16(hidden), width);
      }
    }
  });
  return {grad_hidden, grad_weight};
}

}  // namespace
}  // namespace ptmkernels

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("hierarchical_softmax_forward", TORCH_BOX(&ptmkernels::hierarchical_softmax_forward));
  m.impl("hierarchical_softmax_backward", TORCH_BOX(&ptmkernels::hierarchical_softmax_backward));
}
