// Rows that many warps train at the same time without locks (Recht et al. 2011, "Hogwild!"): each
// adds its changes atomically, so none is lost, and reads whatever is there.
#pragma once

#include "word_vectors/cuda/rows.cuh"

namespace ptmkernels::word_vectors::cuda {

template <int kWide, typename T>
SIMT_FN Columns<kWide> load_current_columns(const T* from) {
  if constexpr (kWide == 4) {
    if constexpr (sizeof(T) == 4) {
      return as_columns(load_current(reinterpret_cast<const Bytes16*>(from)));
    } else {
      return as_columns(load_current(reinterpret_cast<const Bytes8*>(from)));
    }
  } else if constexpr (sizeof(T) == 4) {
    return {{load_current(from)}};
  } else {
    return {{to_float(bfloat16{load_current(&from->bits)})}};
  }
}

// Numbers for rounding at random, of one lane (Marsaglia 2003, "Xorshift RNGs").
struct Noise {
  uint32_t state;  // not 0

  SIMT_FN uint32_t next() {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
  }
};

// Of four bfloat16 side by side, or one: the sums with `change`, rounded up with the probability of
// the part cut off. Rounded to nearest, a row would stop learning as soon as its steps are below
// half of its last bit.
template <int kWide, typename Bits>
SIMT_FN Bits added(Bits old, const Columns<kWide>& change, Noise& noise) {
  Bits result = 0;
  SIMT_UNROLL
  for (int i = 0; i < kWide; ++i) {
    const float before = as_float(static_cast<uint32_t>(old >> 16 * i & 0xffff) << 16);
    const uint32_t after = as_bits(before + change.x[i]) + (noise.next() >> 16);
    result |= static_cast<Bits>(static_cast<Bits>(after >> 16) << 16 * i);
  }
  return result;
}

template <int kWide>
SIMT_FN void add_together(float* to, const Columns<kWide>& change, Noise&) {
  if constexpr (kWide == 1) {
    atomic_add(to, change.x[0]);
  } else {
    atomic_add(to, change.x);
  }
}

template <int kWide>
SIMT_FN void add_together(bfloat16* to, const Columns<kWide>& change, Noise& noise) {
  using Bits = std::conditional_t<kWide == 4, uint64_t, uint16_t>;
  auto* address = reinterpret_cast<Bits*>(to);
  Bits old = load_current(address);
  while (true) {
    const Bits seen = compare_and_swap(address, old, added(old, change, noise));
    if (seen == old) return;
    old = seen;
  }
}

}  // namespace ptmkernels::word_vectors::cuda
