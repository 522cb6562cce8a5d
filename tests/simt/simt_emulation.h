// The wrapper set of csrc/common/simt.h for a host compiler: every call goes to the engine.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/half_types.h"
#include "engine.h"

#define SIMT_FN inline
#define SIMT_HOST_FN inline
#define SIMT_UNROLL
#define SIMT_ROLL

namespace ptmkernels::simt {

using emulation::Engine;
using emulation::Where;

constexpr int kWarpSize = emulation::kWarp;

struct alignas(16) Bytes16 {
  uint32_t x, y, z, w;
};
struct alignas(8) Bytes8 {
  uint32_t x, y;
};
using Bytes4 = uint32_t;

inline int thread_index() { return Engine::get().thread_index(); }
inline int lane_index() { return thread_index() % kWarpSize; }
inline int warp_index() { return thread_index() / kWarpSize; }
inline int64_t block_index() { return Engine::get().block_index(); }

inline void barrier(const Where& where = Where::current()) { Engine::get().barrier(where); }
inline void warp_barrier(const Where& where = Where::current()) {
  Engine::get().warp_barrier(where);
}

template <typename T>
T shuffle_xor(T value, int mask, const Where& where = Where::current()) {
  struct Mine {
    T value;
    T result;
    int mask;
  } mine{value, value, mask};
  const auto exchange = [](void* const* lanes) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      auto* own = static_cast<Mine*>(lanes[lane]);
      own->result = static_cast<Mine*>(lanes[lane ^ own->mask])->value;
    }
  };
  Engine::get().collective("shuffle_xor", &mine, exchange, where);
  return mine.result;
}

template <typename T>
T shuffle(T value, int lane, const Where& where = Where::current()) {
  struct Mine {
    T value;
    T result;
    int lane;
  } mine{value, value, lane};
  const auto exchange = [](void* const* lanes) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      auto* own = static_cast<Mine*>(lanes[lane]);
      own->result = static_cast<Mine*>(lanes[own->lane])->value;
    }
  };
  Engine::get().collective("shuffle", &mine, exchange, where);
  return mine.result;
}

inline uint32_t ballot(bool condition, const Where& where = Where::current()) {
  uint32_t mine = condition;
  const auto vote = [](void* const* lanes) {
    uint32_t votes = 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      votes |= *static_cast<uint32_t*>(lanes[lane]) << lane;
    }
    for (int lane = 0; lane < kWarpSize; ++lane) *static_cast<uint32_t*>(lanes[lane]) = votes;
  };
  Engine::get().collective("ballot", &mine, vote, where);
  return mine;
}

template <typename T>
T load_global(const T* address, const Where& where = Where::current()) {
  T value;
  std::memcpy(&value, Engine::get().read_global(address, sizeof(T), where), sizeof(T));
  return value;
}

template <typename T>
void store_global(T* address, T value, const Where& where = Where::current()) {
  std::memcpy(Engine::get().write_global(address, sizeof(T), where), &value, sizeof(T));
}

template <typename T>
T load_current(const T* address, const Where& where = Where::current()) {
  T value;
  void* from = Engine::get().share_global(const_cast<T*>(address), sizeof(T), false, where);
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Fibres change places before the access at most, so nothing comes between.
template <typename T>
void atomic_add(T* address, T value, const Where& where = Where::current()) {
  T sum;
  void* at = Engine::get().share_global(address, sizeof(T), true, where);
  std::memcpy(&sum, at, sizeof(T));
  sum += value;
  std::memcpy(at, &sum, sizeof(T));
}

inline void atomic_add(float* address, const float (&values)[4],
                       const Where& where = Where::current()) {
  float sums[4];
  void* at = Engine::get().share_global(address, sizeof(sums), true, where);
  std::memcpy(sums, at, sizeof(sums));
  for (int i = 0; i < 4; ++i) sums[i] += values[i];
  std::memcpy(at, sums, sizeof(sums));
}

template <typename T>
T compare_and_swap(T* address, T expected, T value, const Where& where = Where::current()) {
  T old;
  void* at = Engine::get().share_global(address, sizeof(T), true, where);
  std::memcpy(&old, at, sizeof(T));
  if (old == expected) std::memcpy(at, &value, sizeof(T));
  return old;
}

template <typename T>
struct Shared {
  int byte_offset;

  Shared behind(int count) const { return {at(count)}; }
  T load(int index, const Where& where = Where::current()) const {
    return load_as<T>(index, where);
  }
  void store(int index, T value, const Where& where = Where::current()) const {
    store_as<T>(index, value, where);
  }

  template <typename V>
  V load_as(int index, const Where& where = Where::current()) const {
    V value;
    std::memcpy(&value, Engine::get().read_shared(at(index), sizeof(V), where), sizeof(V));
    return value;
  }
  template <typename V>
  void store_as(int index, V value, const Where& where = Where::current()) const {
    std::memcpy(Engine::get().write_shared(at(index), sizeof(V), where), &value, sizeof(V));
  }

  int at(int index) const { return byte_offset + index * static_cast<int>(sizeof(T)); }
};

template <typename T>
Shared<T> shared_memory(int byte_offset) {
  return {byte_offset};
}

template <typename V, typename T>
void copy_async(Shared<T> target, int index, const T* source, bool valid = true,
                const Where& where = Where::current()) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
  Engine::get().copy_async(target.at(index), sizeof(V), valid ? source : nullptr, where);
}

inline void copy_commit() { Engine::get().copy_commit(); }

template <int kOpenGroups>
void copy_wait(const Where& where = Where::current()) {
  Engine::get().copy_wait(kOpenGroups, where);
}

// rows: the 16 bytes that each lane names; out: register m of each lane.
void distribute_matrices(const void* row, uint32_t (&out)[4], bool transposed, const Where& where);

template <typename T>
void load_matrices(uint32_t (&out)[4], Shared<T> source, int index,
                   const Where& where = Where::current()) {
  distribute_matrices(Engine::get().read_shared(source.at(index), 16, where), out, false, where);
}

template <typename T>
void load_matrices_transposed(uint32_t (&out)[4], Shared<T> source, int index,
                              const Where& where = Where::current()) {
  distribute_matrices(Engine::get().read_shared(source.at(index), 16, where), out, true, where);
}

void mma_bf16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const Where& where = Where::current());
void mma_f16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
             const Where& where = Where::current());
void mma_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const Where& where = Where::current());

inline float exp2_fast(float x) { return std::exp2(x); }
inline float log2_fast(float x) { return std::log2(x); }

inline int stay_here(int x) { return x; }
inline int lowest_bit(uint32_t bits) { return std::countr_zero(bits); }

inline float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t as_bits(float x) { return std::bit_cast<uint32_t>(x); }

inline uint32_t round_tf32(float x) {
  const uint32_t bits = as_bits(x);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}

float half_to_float(uint16_t bits);
uint16_t float_to_half(float x);

inline float to_float(float x) { return x; }
inline float to_float(bfloat16 x) { return as_float(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(float16 x) { return half_to_float(x.bits); }

template <typename T>
T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    const uint32_t bits = as_bits(x);
    if (x != x) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
  } else {
    return {float_to_half(x)};
  }
}

template <typename T>
uint32_t pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

}  // namespace ptmkernels::simt
