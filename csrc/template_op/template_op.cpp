// The smallest op that goes the whole way (CONTRIBUTING.md, "Add a kernel"): out = alpha * x + y.
// This file checks nothing: ptmkernels/ops/template_op.py has done so.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace {

using torch::stable::Tensor;

constexpr int64_t kGrain = 16384;  // elements: below this a second thread costs more than it saves

// x, y: contiguous float32 of one shape.
Tensor template_op(const Tensor& x, const Tensor& y, double alpha) {
  Tensor out = torch::stable::empty_like(x);
  const auto* px = static_cast<const float*>(x.data_ptr());
  const auto* py = static_cast<const float*>(y.data_ptr());
  auto* po = static_cast<float*>(out.data_ptr());
  const auto a = static_cast<float>(alpha);
  torch::stable::parallel_for(0, x.numel(), kGrain, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) po[i] = a * px[i] + py[i];
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) { m.impl("template_op", TORCH_BOX(&template_op)); }
