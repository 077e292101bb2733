#include "kernels/product.h"

#include <algorithm>

#include "kernels/cpu/onednn_library.h"
#include "kernels/kernel.h"

namespace lathe {

bool has_fast_product() { return onednn_available(); }

void fast_product(int64_t rows, int64_t columns, int64_t depth, const MatrixView& a, const MatrixView& b, float* c) {
  if (rows == 0 || columns == 0) return;
  if (depth == 0) {
    std::fill_n(c, rows * columns, 0.0f);
    return;
  }
  const dnnl_status_t status = dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', rows, columns, depth, 1.0f, a.data, a.step, b.data, b.step, 0.0f, c, columns);
  require(status == dnnl_success, "a product of [{}, {}] and [{}, {}]: oneDNN says {}", rows, depth, depth, columns, static_cast<int>(status));
}

}  // namespace lathe
