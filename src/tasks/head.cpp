#include "tasks/head.h"

#include <algorithm>

#include "tasks/detect.h"
#include "tasks/text.h"

namespace lathe {

Head head_of(const std::vector<Tensor>& outputs) {
  if (outputs.empty()) return Head::kNone;
  const Shape& s = outputs[0].shape();
  int64_t rest = s.empty() ? 0 : element_count(s) / std::max<int64_t>(s[0], 1);
  bool vector = s.size() >= 2 && rest == s[1] && rest > 1;
  if (outputs.size() == 1 && vector && is_float(outputs[0].dtype())) return Head::kClasses;
  if (outputs.size() == 1 && is_text_map(outputs[0])) return Head::kText;
  if (outputs.size() == 1 && s.size() == 3 && s[0] == 1 && is_integer(outputs[0].dtype())) return Head::kMap;
  if (is_detector(outputs)) return Head::kBoxes;
  bool scores = s.size() == 4 && s[1] > 1 && s[2] > 1 && s[3] > 1;
  return outputs.size() == 1 && scores ? Head::kMap : Head::kNone;
}

}  // namespace lathe
