#include "fibre.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace ptmkernels::simt::emulation {

void Stacks::reserve(int count) {
  if (count <= count_) return;
  release();
  count_ = count;
  void* memory = mmap(nullptr, mapped(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("the emulation could not map its stacks");
    std::abort();
  }
  memory_ = static_cast<char*>(memory);
  mprotect(memory_, kGuardBytes, PROT_NONE);
#ifdef MADV_NOHUGEPAGE
  madvise(memory_, mapped(), MADV_NOHUGEPAGE);  // of which each stack would fill one
#endif
}

void Stacks::release() {
  if (memory_ != nullptr) munmap(memory_, mapped());
}

}  // namespace ptmkernels::simt::emulation

#ifdef __x86_64__

// The registers that a callee must keep, then the stack pointer; the return address is already
// there.
asm(R"(
    .text
    .globl simt_switch_stack
    .type simt_switch_stack, @function
simt_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch_stack, .-simt_switch_stack
)");

extern "C" void simt_switch_stack(void** from, void* to);

namespace ptmkernels::simt::emulation {

void switch_stack(void** from, void* to) { simt_switch_stack(from, to); }

void* new_context(char* low, size_t bytes, void (*entry)()) {
  constexpr int kSavedRegisters = 6;
  auto top = reinterpret_cast<uintptr_t>(low + bytes) & ~uintptr_t{15};
  auto* stack = reinterpret_cast<void**>(top) - 1;  // as if `entry` had been called
  *stack = nullptr;
  *--stack = reinterpret_cast<void*>(entry);
  for (int i = 0; i < kSavedRegisters; ++i) *--stack = nullptr;
  return stack;
}

}  // namespace ptmkernels::simt::emulation

#else

#include <ucontext.h>

namespace ptmkernels::simt::emulation {

// The context lies at the low end of its own stack; that of the caller of the first switch on its
// own.
void switch_stack(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}

void* new_context(char* low, size_t bytes, void (*entry)()) {
  auto* context = reinterpret_cast<ucontext_t*>(low);
  getcontext(context);
  context->uc_stack.ss_sp = low + sizeof(ucontext_t);
  context->uc_stack.ss_size = bytes - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}

}  // namespace ptmkernels::simt::emulation

#endif
