// Tile shapes by type and head dimension.
#pragma once

#include "common/half_types.h"

namespace ptmkernels::attention::cuda {

// What the smallest cards from sm_80 on give to one block.
constexpr int kMaxSharedBytes = 99 * 1024;

// A block of kWarps warps, each of kM x 16 rows of its own side. Tiles of kCols rows of the other
// side come through kStages buffers, and a warp takes kStep of them at a time.
template <int kWarps_, int kM_, int kCols_, int kStep_, int kStages_, int kMinBlocks_>
struct TileShape {
  static constexpr int kWarps = kWarps_, kThreads = kWarps * 32;
  static constexpr int kM = kM_, kRows = kWarps * kM * 16;
  static constexpr int kCols = kCols_, kStep = kStep_, kN = kStep / 8;
  static constexpr int kStages = kStages_;
  static constexpr int kMinBlocks = kMinBlocks_;
  static constexpr int kMinQueryBlocks =
      kMinBlocks;  // of the backward kernel whose rows are queries
};

template <typename T, int kHeadDim>
struct ForwardShape;
template <typename T>
struct ForwardShape<T, 32> : TileShape<4, 2, 64, 32, 2, 3> {};
template <typename T>
struct ForwardShape<T, 64> : TileShape<4, 2, 64, 32, 2, 2> {};
template <typename T>
struct ForwardShape<T, 128> : TileShape<4, 2, 32, 32, 2, 2> {};
template <typename T>
struct ForwardShape<T, 256> : TileShape<4, 1, 32, 16, 2, 1> {};
template <>
struct ForwardShape<float, 32> : TileShape<4, 1, 64, 32, 2, 2> {};
template <>
struct ForwardShape<float, 64> : TileShape<4, 1, 32, 32, 2, 2> {};
template <>
struct ForwardShape<float, 128> : TileShape<4, 1, 32, 16, 2, 1> {};
template <>
struct ForwardShape<float, 256> : TileShape<4, 1, 16, 16, 1, 1> {};

template <typename T, int kHeadDim>
struct BackwardShape;
template <typename T>
struct BackwardShape<T, 32> : TileShape<4, 1, 64, 32, 2, 3> {};
template <typename T>
struct BackwardShape<T, 64> : TileShape<4, 1, 64, 32, 2, 2> {
  static constexpr int kMinQueryBlocks = 3;
};
template <typename T>
struct BackwardShape<T, 128> : TileShape<4, 1, 32, 32, 2, 1> {};
template <typename T>
struct BackwardShape<T, 256> : TileShape<4, 1, 32, 32, 1, 1> {};
template <>
struct BackwardShape<float, 32> : TileShape<4, 1, 32, 32, 2, 2> {};
template <>
struct BackwardShape<float, 64> : TileShape<4, 1, 32, 16, 2, 1> {};
template <>
struct BackwardShape<float, 128> : TileShape<4, 1, 32, 16, 1, 1> {};
template <>
struct BackwardShape<float, 256> : TileShape<2, 1, 16, 16, 1, 1> {};

// With relative positions each warp has 16 rows of its own, and a stage holds kBandRows rows of the
// relative keys, and of the relative values where there are any. kRows + kCols of them serve a tile
// whose queries stand side by side; what does not fit comes in several pieces (relative.cuh).
template <int kWarps_, int kCols_, int kStages_, int kBandRows_, int kMinBlocks_>
struct RelativeShape : TileShape<kWarps_, 1, kCols_, kCols_, kStages_, kMinBlocks_> {
  static constexpr int kBandRows = kBandRows_;
};

template <typename T, int kHeadDim>
struct RelativeForwardShape;
template <typename T>
struct RelativeForwardShape<T, 64> : RelativeShape<4, 32, 2, 96, 2> {};
template <typename T>
struct RelativeForwardShape<T, 256> : RelativeShape<2, 16, 1, 48, 1> {};
template <>
struct RelativeForwardShape<float, 64> : RelativeShape<4, 32, 1, 96, 2> {};
template <>
struct RelativeForwardShape<float, 256> : RelativeShape<1, 16, 1, 16, 1> {};

template <typename T, int kHeadDim>
struct RelativeBackwardShape;
template <typename T>
struct RelativeBackwardShape<T, 64> : RelativeShape<4, 32, 2, 96, 2> {};
template <typename T>
struct RelativeBackwardShape<T, 256> : RelativeShape<2, 16, 1, 32, 1> {};
template <>
struct RelativeBackwardShape<float, 64> : RelativeShape<2, 32, 1, 64, 1> {};
template <>
struct RelativeBackwardShape<float, 256> : RelativeShape<1, 16, 1, 16, 1> {};

// Of the gradient of the relative keys and values (relative_gradient.cuh): kRows queries at a time
// against kCols keys and kCols rows of the relative keys.
template <typename T, int kHeadDim>
struct RelativeGradientShape;
template <typename T>
struct RelativeGradientShape<T, 64> : TileShape<4, 1, 32, 32, 1, 2> {};
template <typename T>
struct RelativeGradientShape<T, 256> : TileShape<2, 1, 32, 32, 1, 1> {};
template <>
struct RelativeGradientShape<float, 64> : TileShape<4, 1, 32, 32, 1, 1> {};
template <>
struct RelativeGradientShape<float, 256> : TileShape<1, 1, 16, 16, 1, 1> {};

// The shapes of a kernel with and without relative positions.
template <typename T, int kHeadDim, bool kRelative>
struct ForwardShapeOf : ForwardShape<T, kHeadDim> {};
template <typename T, int kHeadDim>
struct ForwardShapeOf<T, kHeadDim, true> : RelativeForwardShape<T, kHeadDim> {};
template <typename T, int kHeadDim, bool kRelative>
struct BackwardShapeOf : BackwardShape<T, kHeadDim> {};
template <typename T, int kHeadDim>
struct BackwardShapeOf<T, kHeadDim, true> : RelativeBackwardShape<T, kHeadDim> {};

// Columns of a gradient that one block computes where more accumulators would not fit into the
// registers.
constexpr int kMaxGradCols = 128;

}  // namespace ptmkernels::attention::cuda
