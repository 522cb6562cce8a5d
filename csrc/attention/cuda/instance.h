// The kernels that exist once for each type and padded head dimension; each pair is a translation
// unit of its own (cmake/attention_instances.cmake), so that they compile in parallel.
#pragma once

#include "attention/cuda/device_params.h"
#include "common/launch.h"

namespace ptmkernels::attention::cuda {

// kRelative: with the terms of distances and segments; for head dimensions from 64 on.
template <typename T, int kHeadDim, bool kRelative>
struct Instance {
  static void forward(const Queue& queue, const ForwardParams& params);
  static void backward_queries(const Queue& queue, const BackwardParams& params);
  static void backward_keys(const Queue& queue, const BackwardParams& params);
};

struct RelativeGradientParams;

// The gradients of the relative keys and values.
template <typename T, int kHeadDim>
struct RelativeInstance {
  // Over how many blocks each owner's work is split.
  static int splits(const Queue& queue, const RelativeGradientParams& params);
  static void gradient(const Queue& queue, const RelativeGradientParams& params);
};

struct BiasGradientParams;

// The gradient of a bias: one kernel for each type serves every head dimension.
template <typename T, bool kRelative>
struct BiasInstance {
  static void gradient(const Queue& queue, const BiasGradientParams& params);
};

}  // namespace ptmkernels::attention::cuda
