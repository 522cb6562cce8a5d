// Stacks, and the switch from one to another: a few instructions on x86-64, ucontext elsewhere.
#pragma once

#include <cstddef>

namespace ptmkernels::simt::emulation {

// Saves the running context to *from and goes on in `to`.
void switch_stack(void** from, void* to);

// Stacks side by side, the memory of each taken when it is first touched. A page that nobody may
// touch lies below the first of them: threads that run the same code overflow alike.
class Stacks {
 public:
  static constexpr size_t kBytes = 128 * 1024;

  Stacks() = default;
  Stacks(const Stacks&) = delete;
  Stacks& operator=(const Stacks&) = delete;
  ~Stacks() { release(); }

  // At least so many; what was on those before is lost where there were fewer.
  void reserve(int count);
  char* operator[](int i) const { return memory_ + kGuardBytes + i * kBytes; }

 private:
  static constexpr size_t kGuardBytes = 4096;

  size_t mapped() const { return kGuardBytes + count_ * kBytes; }
  void release();

  char* memory_ = nullptr;
  int count_ = 0;
};

// A context that starts `entry` on the stack [low, low + bytes); `entry` never returns.
void* new_context(char* low, size_t bytes, void (*entry)());

}  // namespace ptmkernels::simt::emulation
