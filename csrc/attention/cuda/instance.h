// The kernels that exist once for each type and padded head dimension; each pair is a translation
// unit of its own (cmake/attention_instances.cmake), so that they compile in parallel.
#pragma once

#include "attention/cuda/device_params.h"
#include "common/launch.h"

namespace ptmkernels::attention::cuda {

template <typename T, int kHeadDim>
struct Instance {
  static void forward(const Queue& queue, const ForwardParams& params);
  static void backward_queries(const Queue& queue, const BackwardParams& params);
  static void backward_keys(const Queue& queue, const BackwardParams& params);
};

struct BiasGradientParams;

// The gradient of a bias: one kernel for each type serves every head dimension.
template <typename T>
struct BiasInstance {
  static void gradient(const Queue& queue, const BiasGradientParams& params);
};

}  // namespace ptmkernels::attention::cuda
