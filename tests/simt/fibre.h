// The switch from one stack to another: a few instructions on x86-64, ucontext elsewhere.
#pragma once

#include <cstddef>

namespace ptmkernels::simt::emulation {

// Saves the running context to *from and goes on in `to`.
void switch_stack(void** from, void* to);

// A context that starts `entry` on the stack [low, low + bytes); `entry` never returns.
void* new_context(char* low, size_t bytes, void (*entry)());

}  // namespace ptmkernels::simt::emulation
