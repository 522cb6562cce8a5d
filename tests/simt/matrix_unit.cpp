// The tensor core of the emulation: ldmatrix, and matrix products of a warp as PTX lays them out.

#include <array>

#include "simt_emulation.h"

namespace ptmkernels::simt {

namespace {

// A half-precision float by its fields; subnormals are scaled.
float decode_half(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
  if (exponent == 0) {
    const float size = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -size : size;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return as_float(sign | wide << 23 | fraction << 13);
}

const std::array<float, 65536>& half_table() {
  static const auto table = [] {
    std::array<float, 65536> values;
    for (int i = 0; i < 65536; ++i) values[i] = decode_half(static_cast<uint16_t>(i));
    return values;
  }();
  return table;
}

// The tensor core adds with more bits than float32 has and then cuts them off: rounding toward
// zero.
float cut_to_float(double x) {
  constexpr uint64_t kCut = (uint64_t{1} << 29) - 1;
  return static_cast<float>(std::bit_cast<double>(std::bit_cast<uint64_t>(x) & ~kCut));
}

struct Operands {
  float* acc;
  const uint32_t* a;
  const uint32_t* b;
};

float bf16_half(uint32_t pair, int high) {
  return as_float(high ? pair & 0xffff0000u : pair << 16);
}
float f16_half(uint32_t pair, int high) {
  return half_table()[static_cast<uint16_t>(high ? pair >> 16 : pair)];
}

template <int kDepth>
void multiply(void* const* lanes, const float (&a)[16][kDepth], const float (&b)[kDepth][8]) {
  double sum[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const float* acc = static_cast<Operands*>(lanes[lane])->acc;
    for (int e = 0; e < 4; ++e) sum[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2] = acc[e];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      const double factor = a[row][k];
      for (int col = 0; col < 8; ++col) sum[row][col] += factor * b[k][col];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    float* acc = static_cast<Operands*>(lanes[lane])->acc;
    for (int e = 0; e < 4; ++e) {
      acc[e] = cut_to_float(sum[lane / 4 + e / 2 * 8][lane % 4 * 2 + e % 2]);
    }
  }
}

// m16n8k16: register r of A holds row g + 8 (r % 2), columns 2 t + 8 (r / 2); of B rows 2 t + 8 r,
// column g, where g = lane / 4 and t = lane % 4.
template <float (*half)(uint32_t, int)>
void multiply_pairs(void* const* lanes) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto* own = static_cast<const Operands*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int high = 0; high < 2; ++high) {
      for (int r = 0; r < 4; ++r) {
        a[g + r % 2 * 8][t * 2 + r / 2 * 8 + high] = half(own->a[r], high);
      }
      for (int r = 0; r < 2; ++r) b[t * 2 + r * 8 + high][g] = half(own->b[r], high);
    }
  }
  multiply<16>(lanes, a, b);
}

// m16n8k8 of TF32: register r of A holds row g + 8 (r % 2), column t + 4 (r / 2); of B row t + 4 r,
// column g.
void multiply_tf32(void* const* lanes) {
  constexpr uint32_t kUsed = 0xffffe000u;
  float a[16][8], b[8][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto* own = static_cast<const Operands*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) a[g + r % 2 * 8][t + r / 2 * 4] = as_float(own->a[r] & kUsed);
    for (int r = 0; r < 2; ++r) b[t + r * 4][g] = as_float(own->b[r] & kUsed);
  }
  multiply<8>(lanes, a, b);
}

struct MatrixRows {
  const void* row;
  uint32_t* out;
  bool transposed;
};

void distribute(void* const* lanes) {
  uint16_t element[4][8][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    std::memcpy(element[lane / 8][lane % 8], static_cast<const MatrixRows*>(lanes[lane])->row, 16);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto* own = static_cast<const MatrixRows*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int m = 0; m < 4; ++m) {
      const uint32_t low = own->transposed ? element[m][2 * t][g] : element[m][g][2 * t];
      const uint32_t high = own->transposed ? element[m][2 * t + 1][g] : element[m][g][2 * t + 1];
      own->out[m] = low | high << 16;
    }
  }
}

}  // namespace

float half_to_float(uint16_t bits) { return half_table()[bits]; }

uint16_t float_to_half(float x) {
  const uint32_t bits = as_bits(x);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float size = std::fabs(x);
  if (x != x) return sign | 0x7e00;
  if (size >= 65520.0f) return sign | 0x7c00;
  if (size < 0x1p-14f) {  // subnormal: a whole number of 2^-24
    return sign | static_cast<uint16_t>(std::nearbyint(size * 0x1p24f));
  }
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded >> 13) - (112u << 10));
}

void distribute_matrices(const void* row, uint32_t (&out)[4], bool transposed, const Where& where) {
  MatrixRows mine{row, out, transposed};
  Engine::get().collective("load_matrices", &mine, distribute, where);
}

void mma_bf16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Where& where) {
  Operands mine{acc, a, b};
  Engine::get().collective("mma_bf16", &mine, multiply_pairs<bf16_half>, where);
}

void mma_f16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Where& where) {
  Operands mine{acc, a, b};
  Engine::get().collective("mma_f16", &mine, multiply_pairs<f16_half>, where);
}

void mma_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const Where& where) {
  Operands mine{acc, a, b};
  Engine::get().collective("mma_tf32", &mine, multiply_tf32, where);
}

}  // namespace ptmkernels::simt
