#include "kernels/product.h"

#include <signal.h>

#include <algorithm>

#include "core/parallel.h"
#include "kernels/cpu/onednn_library.h"
#include "kernels/kernel.h"

namespace lathe {

namespace {

// While one lives, signals wait on this thread; those of a fault do not.
class SignalsWait {
 public:
  SignalsWait() {
    sigset_t all;
    ::sigfillset(&all);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) ::sigdelset(&all, fault);
    ::pthread_sigmask(SIG_BLOCK, &all, &before_);
  }
  ~SignalsWait() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsWait(const SignalsWait&) = delete;
  SignalsWait& operator=(const SignalsWait&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

bool has_fast_product() { return onednn_available(); }

void fast_product(int64_t rows, int64_t columns, int64_t depth, const MatrixView& a, const MatrixView& b, float* c) {
  if (rows == 0 || columns == 0) return;
  if (depth == 0) {
    std::fill_n(c, rows * columns, 0.0f);
    return;
  }
  // Its own threads would not let signals wait: each of ours asks it for a part, alone.
  parallel_for(rows, kParallelGrain * 16 / (columns * depth) + 1, [&](int64_t begin, int64_t end) {
    const ThreadScope alone(1);
    const SignalsWait wait;
    const dnnl_status_t status = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', end - begin, columns, depth, 1.0f, a.data + begin * (a.transposed ? 1 : a.step), a.step, b.data, b.step, 0.0f,
                                            c + begin * columns, columns);
    require(status == dnnl_success, "a product of [{}, {}] and [{}, {}]: oneDNN says {}", rows, depth, depth, columns, static_cast<int>(status));
  });
}

}  // namespace lathe
