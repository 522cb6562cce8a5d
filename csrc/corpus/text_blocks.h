// A text file read in blocks by several threads at once.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

namespace ptmkernels {

// A file that the operating system did not let us read or write; `code` is its errno.
struct FileError {
  int code;
  std::string path;
};

[[noreturn]] void throw_file_error(const std::string& path);

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

// Throws FileError.
File open_file(const std::string& path, const char* mode);

inline bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

struct TextBlock {
  std::string text;    // ends at a line's end, or between two words of a line longer than a block
  int64_t offset = 0;  // of text[0] in the file, in bytes
  int64_t index = 0;   // 0, 1, 2, ... in the order of the file
};

class TextBlocks {
 public:
  explicit TextBlocks(const std::string& path);

  // The next block, valid UTF-8; false at the end of the file. Any thread may call it. Throws
  // std::invalid_argument naming file and byte where the text is not UTF-8, FileError where it
  // cannot be read.
  bool next(TextBlock& block);

  // Bytes handed out so far.
  int64_t position();

 private:
  bool read(TextBlock& block);

  std::string path_;
  File file_;
  std::mutex mutex_;
  std::string rest_;  // what was read beyond the last block's end
  int64_t offset_ = 0;
  int64_t index_ = 0;
};

// Called on the calling thread with the bytes done so far; what it throws ends the work.
using Progress = std::function<void(int64_t)>;

using BlockWork = std::function<void(int thread, const TextBlock& block)>;

// Runs work(thread, block) over all blocks of a file on `threads` threads, the caller being thread
// 0. After it commit(thread, block), where given: one block at a time, in the order of the file.
void for_each_block(const std::string& path, int threads, const Progress& progress,
                    const BlockWork& work, const BlockWork& commit = {});

// The first white space at or after `begin`, or text.size().
size_t find_space(std::string_view text, size_t begin);

// Calls word(view) for each whitespace-separated word, and line_end() at each newline.
template <class Word, class LineEnd>
void for_each_word(std::string_view text, const Word& word, const LineEnd& line_end) {
  size_t begin = 0;
  while (begin < text.size()) {
    if (is_space(text[begin])) {
      if (text[begin] == '\n') line_end();
      ++begin;
      continue;
    }
    const size_t end = find_space(text, begin);
    word(text.substr(begin, end - begin));
    begin = end;
  }
}

}  // namespace ptmkernels
