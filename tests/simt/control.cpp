// What the tests ask of the engine, as plain C for ctypes.

#include <string>

#include "engine.h"

using ptmkernels::simt::emulation::Engine;
using ptmkernels::simt::emulation::Site;

#define SIMT_EXPORT extern "C" __attribute__((visibility("default")))

// What was found since the last call, one line each.
SIMT_EXPORT const char* simt_take_reports() {
  static std::string text;
  text.clear();
  for (const std::string& report : Engine::get().reports()) text += report + "\n";
  Engine::get().clear_reports();
  return text.c_str();
}

// The places that order memory and were passed since the last call: kind, file, line,
// tab-separated.
SIMT_EXPORT const char* simt_take_sites() {
  static std::string text;
  text.clear();
  for (const Site& site : Engine::get().sites()) {
    text += site.kind + "\t" + site.file + "\t" + std::to_string(site.line) + "\n";
  }
  Engine::get().clear_sites();
  return text.c_str();
}

// Leaves out what orders memory at a place; an empty kind: nothing.
SIMT_EXPORT void simt_delete_site(const char* kind, const char* file, int line) {
  Engine::get().delete_site({kind, file, static_cast<uint32_t>(line)});
}

// From now on the blocks that so many multiprocessors hold run at the same time.
SIMT_EXPORT void simt_interleave(int multiprocessors, uint64_t seed) {
  Engine::get().interleave(multiprocessors, seed);
}

// From now on the blocks run one after the other.
SIMT_EXPORT void simt_run_in_order() { Engine::get().run_in_order(); }
