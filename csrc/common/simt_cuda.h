// The wrapper set of simt.h on the hardware: sm_80 and later.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/half_types.h"

#define SIMT_FN __device__ __forceinline__
#define SIMT_HOST_FN __host__ __device__ __forceinline__
#define SIMT_UNROLL _Pragma("unroll")
#define SIMT_ROLL _Pragma("unroll 1")

namespace ptmkernels::simt {

constexpr int kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

SIMT_FN int thread_index() { return static_cast<int>(threadIdx.x); }
SIMT_FN int lane_index() { return static_cast<int>(threadIdx.x) % kWarpSize; }
SIMT_FN int warp_index() { return static_cast<int>(threadIdx.x) / kWarpSize; }
SIMT_FN int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }

SIMT_FN void barrier() { __syncthreads(); }
SIMT_FN void warp_barrier() { __syncwarp(); }

template <typename T>
SIMT_FN T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}

// What `lane` holds; the same or another one for each lane.
template <typename T>
SIMT_FN T shuffle(T value, int lane) {
  return __shfl_sync(kAllLanes, value, lane);
}

SIMT_FN uint32_t ballot(bool condition) { return __ballot_sync(kAllLanes, condition); }

// x, in a way that keeps what is computed from it where it is written: the compiler would move it
// out of the loop around, where its registers are missed by everything else.
SIMT_FN int stay_here(int x) {
  asm volatile("" : "+r"(x));
  return x;
}

// 16, 8 and 4 bytes that move as one.
using Bytes16 = uint4;
using Bytes8 = uint2;
using Bytes4 = uint32_t;

template <typename T>
SIMT_FN T load_global(const T* address) {
  return *address;
}

template <typename T>
SIMT_FN void store_global(T* address, T value) {
  *address = value;
}

// From the second-level cache, which every multiprocessor shares.
template <typename T>
SIMT_FN T load_current(const T* address) {
  return __ldcg(address);
}

// Reductions, which give no old value back, are written out: for a pointer whose address space the
// compiler does not know, atomicAdd waits for one.
SIMT_FN void atomic_add(double* address, double value) {
  asm volatile("red.relaxed.gpu.global.add.f64 [%0], %1;" ::"l"(__cvta_generic_to_global(address)),
               "d"(value)
               : "memory");
}
SIMT_FN void atomic_add(float* address, float value) {
  asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(__cvta_generic_to_global(address)),
               "f"(value)
               : "memory");
}
SIMT_FN void atomic_add(float* address, const float (&values)[4]) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(
                   __cvta_generic_to_global(address)),
               "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3])
               : "memory");
#else
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) atomic_add(address + i, values[i]);
#endif
}

SIMT_FN uint16_t compare_and_swap(uint16_t* address, uint16_t expected, uint16_t value) {
  return atomicCAS(address, expected, value);
}
SIMT_FN uint64_t compare_and_swap(uint64_t* address, uint64_t expected, uint64_t value) {
  return atomicCAS(reinterpret_cast<unsigned long long*>(address), expected, value);
}

template <typename T>
struct Shared {
  T* data;

  SIMT_FN Shared behind(int count) const { return {data + count}; }
  SIMT_FN T load(int index) const { return data[index]; }
  SIMT_FN void store(int index, T value) const { data[index] = value; }

  template <typename V>
  SIMT_FN V load_as(int index) const {
    return *reinterpret_cast<const V*>(data + index);
  }
  template <typename V>
  SIMT_FN void store_as(int index, V value) const {
    *reinterpret_cast<V*>(data + index) = value;
  }
};

template <typename T>
SIMT_FN Shared<T> shared_memory(int byte_offset) {
  extern __shared__ __align__(128) unsigned char simt_shared_memory[];
  return {reinterpret_cast<T*>(simt_shared_memory + byte_offset)};
}

template <typename V, typename T>
SIMT_FN void copy_async(Shared<T> target, int index, const T* source, bool valid = true) {
  static_assert(sizeof(V) == 4 || sizeof(V) == 8 || sizeof(V) == 16);
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(target.data + index));
  const int bytes = valid ? static_cast<int>(sizeof(V)) : 0;
  if constexpr (sizeof(V) == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source),
                 "r"(bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(source),
                 "n"(sizeof(V)), "r"(bytes)
                 : "memory");
  }
}

SIMT_FN void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int kOpenGroups>
SIMT_FN void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpenGroups) : "memory");
}

// Lane l names row l % 8 (16 bytes) of matrix l / 8; register m of lane l then holds row l / 4 of
// matrix m, its 4 bytes at 4 * (l % 4).
template <typename T>
SIMT_FN void load_matrices(uint32_t (&out)[4], Shared<T> source, int index) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(source.data + index));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}

// The same with each 8 x 8 matrix of 16-bit elements transposed.
template <typename T>
SIMT_FN void load_matrices_transposed(uint32_t (&out)[4], Shared<T> source, int index) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(source.data + index));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address));
}

// a: 16 x 16, b: 16 x 8 (two elements a register), acc: 16 x 8; the layouts are PTX's m16n8k16.
SIMT_FN void mma_bf16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

SIMT_FN void mma_f16(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// a: 16 x 8, b: 8 x 8 of TF32 (float32 whose last 13 bits are ignored); PTX's m16n8k8.
SIMT_FN void mma_tf32(float (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

SIMT_FN float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

SIMT_FN float log2_fast(float x) { return __log2f(x); }

// The nearest TF32, ties away from zero, as the bits of a float32.
SIMT_FN uint32_t round_tf32(float x) {
  uint32_t result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(x));
  return result;
}

SIMT_FN int lowest_bit(uint32_t bits) { return __ffs(static_cast<int>(bits)) - 1; }

SIMT_FN float as_float(uint32_t bits) { return __uint_as_float(bits); }
SIMT_FN uint32_t as_bits(float x) { return __float_as_uint(x); }

SIMT_FN float to_float(float x) { return x; }
SIMT_FN float to_float(bfloat16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
SIMT_FN float to_float(float16 x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}

template <typename T>
SIMT_FN T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    uint16_t bits;
    if constexpr (std::is_same_v<T, bfloat16>) {
      asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    } else {
      asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    }
    return {bits};
  }
}

// Two 16-bit elements in one register, `low` in its lower half.
template <typename T>
SIMT_FN uint32_t pack(float low, float high) {
  uint32_t result;
  if constexpr (std::is_same_v<T, bfloat16>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  }
  return result;
}

}  // namespace ptmkernels::simt
