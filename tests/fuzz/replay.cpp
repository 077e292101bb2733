// main() of the fuzz targets where there is no libFuzzer:
//
//   fuzz_NAME [-runs=N] [-seed=S] [-max_len=BYTES] [FILE or FOLDER ...]
//
// Runs every given file, then N inputs mutated from them. The same seed and corpus give the same inputs, whatever the
// machine. Nothing here looks at coverage: this keeps what is known to work working; finding what is not is libFuzzer's
// part. An input that crashes, hangs for 60 seconds or throws anything is left in the file crash-NAME-NUMBER, where NUMBER
// counts the runs; the exit status is then not 0.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);
extern "C" __attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned int seed);

namespace {

using Input = std::vector<uint8_t>;

constexpr unsigned kSecondsForOne = 60;  // none takes one, but a sanitizer on a machine that swaps is slow
constexpr rlim_t kMemory = rlim_t{8} << 30;  // of address space: what asks for more gets std::bad_alloc, a finding

std::mt19937_64 random_bits;

// Unlike std::uniform_int_distribution the same on every standard library.
size_t below(size_t n) { return n ? random_bits() % n : 0; }

// What a signal handler needs to keep the input that is running.
const uint8_t* running = nullptr;
size_t running_size = 0;
char crash_name[512];
size_t runs_done = 0;

void write_all(int fd, const void* data, size_t size) {
  for (size_t at = 0; at < size;) {
    ssize_t count = ::write(fd, static_cast<const char*>(data) + at, size - at);
    if (count <= 0) return;
    at += static_cast<size_t>(count);
  }
}

void keep_input() {
  int fd = ::open(crash_name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return;
  write_all(fd, running, running_size);
  ::close(fd);
  for (const char* text : {"fuzz: the input that failed is in ", static_cast<const char*>(crash_name), "\n"})
    write_all(STDERR_FILENO, text, std::strlen(text));
}

// Adds the number of the run by hand: a handler of signals may not call snprintf.
void name_crash(const std::string& program) {
  std::string name = "crash-" + program + "-" + std::to_string(runs_done);
  std::memcpy(crash_name, name.c_str(), std::min(name.size() + 1, sizeof crash_name - 1));
}

void on_signal(int number) {
  keep_input();
  ::signal(number, SIG_DFL);
  ::raise(number);
}

constexpr bool kSanitized =
#if defined(__SANITIZE_ADDRESS__)
    true;
#else
    false;
#endif

std::string program_name;

bool run(const Input& input) {
  name_crash(program_name);
  // A copy that ends where the input ends, so that a sanitizer sees a read past it.
  Input exact(input.begin(), input.end());
  exact.shrink_to_fit();
  running = exact.data();
  running_size = exact.size();
  ::alarm(kSecondsForOne);
  try {
    LLVMFuzzerTestOneInput(exact.data(), exact.size());
  } catch (const std::exception& e) {
    std::fprintf(stderr, "fuzz: %s came out: %s\n", typeid(e).name(), e.what());
    keep_input();
    return false;
  }
  ::alarm(0);
  ++runs_done;
  return true;
}

Input read_whole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return Input(std::istreambuf_iterator<char>(file), {});
}

std::vector<Input> read_corpus(const std::vector<std::string>& paths, size_t max_size) {
  std::vector<std::filesystem::path> files;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      files.emplace_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(path))
      if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());  // the order of a folder is the file system's whim
  std::vector<Input> corpus;
  for (const auto& file : files) corpus.push_back(read_whole(file));
  if (corpus.empty()) corpus.push_back({});
  for (Input& input : corpus) input.resize(std::min(input.size(), max_size));
  return corpus;
}

// A number at its limits, in 1, 2, 4 or 8 bytes of either order.
void put_odd_number(uint8_t* data, size_t size) {
  static constexpr int64_t kOdd[] = {0, 1, -1, 2, 7, 16, 127, 128, 255, 256, 32767, 65535, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};
  size_t width = size_t{1} << below(4);
  if (size < width) return;
  uint8_t bytes[8];
  std::memcpy(bytes, &kOdd[below(std::size(kOdd))], 8);
  if (below(2)) std::reverse(bytes, bytes + width);
  std::memcpy(data + below(size - width + 1), bytes, width);
}

size_t mutate_once(uint8_t* data, size_t size, size_t max_size) {
  size_t at = below(size), length = 1 + below(std::min<size_t>(size - std::min(at, size), 16));
  switch (below(8)) {
    case 0:
      if (size) data[at] ^= static_cast<uint8_t>(1u << below(8));
      return size;
    case 1:
      if (size) data[at] = static_cast<uint8_t>(random_bits());
      return size;
    case 2: put_odd_number(data, size); return size;
    case 3:  // remove a piece
      if (size <= length) return size;
      std::memmove(data + at, data + at + length, size - at - length);
      return size - length;
    case 4:  // repeat a piece
      if (!size || size + length > max_size) return size;
      std::memmove(data + at + length, data + at, size - at);
      return size + length;
    case 5:  // insert noise
      if (size + length > max_size) return size;
      std::memmove(data + at + length, data + at, size - at);
      for (size_t i = 0; i < length; ++i) data[at + i] = static_cast<uint8_t>(random_bits());
      return size + length;
    case 6:  // copy a piece to another place
      if (size > length) std::memmove(data + below(size - length + 1), data + std::min(at, size - length), length);
      return size;
    default:  // one character of a text becomes another
      if (size && data[at] >= ' ' && data[at] < 127) data[at] = static_cast<uint8_t>("0123456789-+.,:[]{}()<>='\"% e"[below(29)]);
      return size;
  }
}

// The head of one input and the tail of another.
Input splice(const Input& a, const Input& b, size_t max_size) {
  Input result(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(below(a.size() + 1)));
  result.insert(result.end(), b.begin() + static_cast<std::ptrdiff_t>(below(b.size() + 1)), b.end());
  result.resize(std::min(result.size(), max_size));
  return result;
}

Input mutate(Input input, const std::vector<Input>& corpus, size_t max_size) {
  if (below(8) == 0) input = splice(input, corpus[below(corpus.size())], max_size);
  size_t size = input.size();
  input.resize(max_size);
  size = LLVMFuzzerCustomMutator ? LLVMFuzzerCustomMutator(input.data(), size, max_size, static_cast<unsigned>(random_bits()))
                                 : LLVMFuzzerMutate(input.data(), size, max_size);
  input.resize(size);
  return input;
}

}  // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  for (size_t i = 1 + below(4); i > 0; --i) size = mutate_once(data, size, max_size);
  return size;
}

int main(int argc, char** argv) {
  size_t runs = 1000, max_size = 16384;
  uint64_t seed = 1;
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument.starts_with("-runs=")) runs = std::stoull(argument.substr(6));
    else if (argument.starts_with("-seed=")) seed = std::stoull(argument.substr(6));
    else if (argument.starts_with("-max_len=")) max_size = std::stoull(argument.substr(9));
    else if (argument.starts_with("-")) return std::fprintf(stderr, "fuzz: unknown option %s\n", argv[i]), 2;
    else paths.push_back(argument);
  }
  program_name = std::filesystem::path(argv[0]).filename().string();
  for (int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM}) ::signal(number, on_signal);
  rlimit limit{kMemory, kMemory};
  if (!kSanitized) ::setrlimit(RLIMIT_AS, &limit);  // the shadow of a sanitizer takes terabytes of addresses

  std::vector<Input> corpus = read_corpus(paths, max_size);
  for (const Input& input : corpus)
    if (!run(input)) return 1;
  random_bits.seed(seed);
  for (size_t i = 0; i < runs; ++i)
    if (!run(mutate(corpus[below(corpus.size())], corpus, max_size))) return 1;
  std::printf("%s: %zu files of the corpus and %zu mutated inputs, seed %llu\n", program_name.c_str(), corpus.size(), runs,
              static_cast<unsigned long long>(seed));
  return 0;
}
