#include "corpus/text_blocks.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <condition_variable>
#include <exception>
#include <stdexcept>
#include <thread>
#include <vector>

#include "corpus/utf8.h"

namespace ptmkernels {
namespace {

constexpr size_t kBlock = size_t{1} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// One past the last newline, else past the last white space, else 0.
size_t cut(std::string_view text) {
  const size_t line = text.rfind('\n');
  if (line != std::string_view::npos) return line + 1;
  size_t end = text.size();
  while (end > 0 && !is_space(text[end - 1])) --end;
  return end;
}

}  // namespace

void throw_file_error(const std::string& path) { throw FileError{errno, path}; }

File open_file(const std::string& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode));
  if (!file) throw_file_error(path);
  return file;
}

size_t find_space(std::string_view text, size_t begin) {
#if defined(__SSE2__)
  // Sixteen bytes at once: words differ in length, and a loop over bytes mispredicts each one's
  // end.
  for (; begin + 16 <= text.size(); begin += 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text.data() + begin));
    const __m128i control = _mm_and_si128(_mm_cmpgt_epi8(bytes, _mm_set1_epi8('\t' - 1)),
                                          _mm_cmpgt_epi8(_mm_set1_epi8('\r' + 1), bytes));
    const __m128i space = _mm_or_si128(control, _mm_cmpeq_epi8(bytes, _mm_set1_epi8(' ')));
    if (const auto mask = static_cast<unsigned>(_mm_movemask_epi8(space))) {
      return begin + static_cast<size_t>(std::countr_zero(mask));
    }
  }
#endif
  while (begin < text.size() && !is_space(text[begin])) ++begin;
  return begin;
}

TextBlocks::TextBlocks(const std::string& path) : path_(path), file_(open_file(path, "rb")) {}

bool TextBlocks::read(TextBlock& block) {
  const std::lock_guard lock(mutex_);
  block.text.swap(rest_);
  rest_.clear();
  block.offset = offset_;
  block.index = index_;
  for (;;) {
    const size_t kept = block.text.size();
    block.text.resize(kept + kBlock);
    const size_t read = std::fread(block.text.data() + kept, 1, kBlock, file_.get());
    if (std::ferror(file_.get())) throw_file_error(path_);
    block.text.resize(kept + read);
    size_t end = read == 0 ? block.text.size() : cut(block.text);
    if (end == 0 && read > 0) continue;  // one word longer than the block
    rest_.assign(block.text, end, std::string::npos);
    block.text.resize(end);
    break;
  }
  offset_ += static_cast<int64_t>(block.text.size());
  ++index_;
  return !block.text.empty();
}

bool TextBlocks::next(TextBlock& block) {
  if (!read(block)) return false;
  if (block.offset == 0 && block.text.starts_with(kByteOrderMark)) {
    // A sign of the encoding, no part of the first word. Spaces, so that places stay as they are.
    block.text.replace(0, kByteOrderMark.size(), kByteOrderMark.size(), ' ');
  }
  if (const size_t bad = find_invalid_utf8(block.text); bad != std::string_view::npos) {
    throw std::invalid_argument(path_ + ": not UTF-8 at byte " +
                                std::to_string(block.offset + static_cast<int64_t>(bad)));
  }
  return true;
}

int64_t TextBlocks::position() {
  const std::lock_guard lock(mutex_);
  return offset_;
}

void for_each_block(const std::string& path, int threads, const Progress& progress,
                    const BlockWork& work, const BlockWork& commit) {
  TextBlocks blocks(path);
  std::mutex mutex;
  std::condition_variable turn;
  int64_t next = 0;  // index of the block to commit next
  std::atomic<bool> stop = false;
  std::vector<std::exception_ptr> errors(std::max(threads, 1));
  auto run_blocks = [&](int thread) {
    TextBlock block;
    while (!stop && blocks.next(block)) {
      work(thread, block);
      if (commit) {
        std::unique_lock lock(mutex);
        turn.wait(lock, [&] { return stop || next == block.index; });
        if (stop) return;
        commit(thread, block);
        ++next;
        turn.notify_all();
      }
      if (thread == 0 && progress) progress(blocks.position());
    }
  };
  auto run = [&](int thread) {
    try {
      run_blocks(thread);
    } catch (...) {
      errors[thread] = std::current_exception();
      const std::lock_guard lock(mutex);
      stop = true;
      turn.notify_all();
    }
  };
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(run, t);
  run(0);
  for (std::thread& thread : pool) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
  if (progress) progress(blocks.position());
}

}  // namespace ptmkernels
