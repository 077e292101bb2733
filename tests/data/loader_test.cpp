#include "data/loader.h"

#include <atomic>
#include <chrono>
#include <set>
#include <thread>

#include "fixture.h"

namespace lathe {
namespace {

using testing::HasSubstr;

std::shared_ptr<const TrainingSet> pictures(size_t size, std::atomic<int>* made = nullptr) {
  return std::make_shared<FunctionSet>(size, [made](size_t i) {
    if (made) ++*made;
    return Sample{noise({3, 10, 12}, static_cast<unsigned>(i)), static_cast<int64_t>(i % 3), {}, {}};
  });
}

bool same(const Batch& a, const Batch& b) {
  bool boxes = a.boxes.size() == b.boxes.size();
  for (size_t i = 0; boxes && i < a.boxes.size(); ++i) {
    boxes = a.boxes[i].size() == b.boxes[i].size();
    for (size_t k = 0; boxes && k < a.boxes[i].size(); ++k)
      boxes = std::memcmp(&a.boxes[i][k].x0, &b.boxes[i][k].x0, 4 * sizeof(float)) == 0;
  }
  return a.epoch == b.epoch && a.index == b.index && a.samples == b.samples && lathe::same(a.inputs, b.inputs) &&
         lathe::same(a.labels, b.labels) && lathe::same(a.soft_labels, b.soft_labels) && boxes;
}

LoaderOptions options(int threads) {
  LoaderOptions o;
  o.batch = 7;
  o.threads = threads;
  o.augment = parse_augment("flip,crop=2,jitter=0.3,randaugment,erase=0.5");
  o.mixup = 0.2;
  o.cutmix = 1;
  return o;
}

TEST(Loader, BatchesAreTheSameWhateverTheThreads) {
  Loader one(pictures(40), options(0));
  std::vector<Batch> expected;
  for (int i = 0; i < 18; ++i) expected.push_back(one.next());
  EXPECT_EQ(one.batches(), 6);
  EXPECT_EQ(expected[5].inputs.shape(), (Shape{5, 3, 10, 12}));
  EXPECT_EQ(expected[6].epoch, 1);
  EXPECT_EQ(expected[6].index, 0);
  EXPECT_FALSE(lathe::same(expected[0].inputs, expected[6].inputs));
  for (int threads : {1, 2, 5}) {
    for (int64_t kept : {int64_t{0}, int64_t{1} << 30}) {
      LoaderOptions o = options(threads);
      o.kept_bytes = kept;
      o.ahead = threads;
      Loader loader(pictures(40), o);
      for (const Batch& b : expected) ASSERT_TRUE(same(loader.next(), b)) << threads << " " << b.epoch << " " << b.index;
    }
  }
  LoaderOptions other = options(0);
  other.seed = 2;
  EXPECT_FALSE(same(Loader(pictures(40), other).next(), expected[0]));
}

TEST(Loader, GoesOnWhereACheckpointSays) {
  Loader whole(pictures(40), options(0));
  std::vector<Batch> expected;
  for (int i = 0; i < 30; ++i) expected.push_back(whole.next());
  for (size_t at : {0, 1, 5, 6, 17, 29}) {
    Loader resumed(pictures(40), options(2));
    resumed.seek(static_cast<int64_t>(at) / 6, static_cast<int64_t>(at) % 6);
    for (size_t i = at; i < 30; ++i) ASSERT_TRUE(same(resumed.next(), expected[i])) << at << " " << i;
    resumed.seek(0, 3);  // back, while others wait
    ASSERT_TRUE(same(resumed.next(), expected[3]));
  }
  EXPECT_THROW(whole.seek(0, 6), Error);
  EXPECT_THROW(whole.seek(-1, 0), Error);
}

TEST(Loader, AnEpochGivesEverySampleOnce) {
  for (bool shuffle : {false, true}) {
    for (bool drop : {false, true}) {
      LoaderOptions o;
      o.batch = 6;
      o.shuffle = shuffle;
      o.drop_last = drop;
      o.epochs = 2;
      Loader loader(pictures(20), o);
      EXPECT_EQ(loader.batches(), drop ? 3 : 4);
      std::vector<size_t> orders[2];
      for (int64_t epoch = 0; epoch < 2; ++epoch)
        for (int64_t i = 0; i < loader.batches(); ++i) {
          Batch b = loader.next();
          EXPECT_EQ(b.epoch, epoch);
          EXPECT_FALSE(b.soft_labels.defined());
          for (size_t k = 0; k < b.samples.size(); ++k) {
            orders[epoch].push_back(b.samples[k]);
            EXPECT_EQ(b.labels.data<int64_t>()[k], static_cast<int64_t>(b.samples[k] % 3));
          }
        }
      EXPECT_EQ(orders[0] == orders[1], !shuffle);
      EXPECT_EQ(std::set<size_t>(orders[0].begin(), orders[0].end()).size(), drop ? 18u : 20u);
      EXPECT_THROW(loader.next(), Error);
    }
  }
  LoaderOptions o;
  o.batch = 50;
  o.drop_last = true;
  EXPECT_EQ(Loader(pictures(20), o).next().samples.size(), 20u);
}

TEST(Loader, NormalizesByChannel) {
  auto set = std::make_shared<FunctionSet>(1, [](size_t) {
    Tensor t(DType::kU8, {3, 1, 2});
    for (int64_t i = 0; i < 6; ++i) t.set_int(i, 51 * i);
    return Sample{t, 0, {}, {}};
  });
  LoaderOptions o;
  o.threads = 0;
  o.mean = {0.5f, 0.25f, 0};
  o.std = {2, 4, 0.5f};
  Batch b = Loader(set, o).next();
  for (int64_t i = 0; i < 6; ++i)
    EXPECT_NEAR(b.inputs.get(i), (0.2 * static_cast<double>(i) - o.mean[static_cast<size_t>(i / 2)]) / o.std[static_cast<size_t>(i / 2)],
                1e-6);
  o.mean = {0, 0};
  EXPECT_THROW(Loader(set, o), Error);
  o.std = {1};
  EXPECT_THROW(Loader(set, o).next(), Error);  // three channels
  // The video protocol: a mean in units of pixels, no deviation.
  o.mean = {100};
  o.std = {1};
  o.scale = 1;
  EXPECT_EQ(Loader(set, o).next().inputs.get(5), 155);
  auto floats = std::make_shared<FunctionSet>(1, [](size_t) { return Sample{Tensor::of_f32({1, 1, 2}, {3, 5}), 0, {}, {}}; });
  o.mean = {1};
  o.std = {2};
  EXPECT_EQ(Loader(floats, o).next().inputs.get(1), 2);
}

TEST(Loader, BoxesAndMasksComeAlong) {
  auto set = std::make_shared<FunctionSet>(5, [](size_t i) {
    Sample s{noise({3, 30, 40}, static_cast<unsigned>(i)), -1, {}, {}};
    for (size_t k = 0; k < i; ++k) s.boxes.push_back({0, 0, 20, 15, static_cast<int64_t>(k % 3)});
    return s;
  }, std::vector<std::string>{"a", "b", "c"}, TrainingTruth::kBoxes);
  LoaderOptions o;
  o.shuffle = false;
  o.augment.height = 15;
  o.augment.width = 20;
  o.augment.fit = Fit::kStretch;
  Batch b = Loader(set, o).next();
  EXPECT_FALSE(b.labels.defined());
  ASSERT_EQ(b.boxes.size(), 5u);
  EXPECT_TRUE(b.boxes[0].empty());
  ASSERT_EQ(b.boxes[4].size(), 4u);
  EXPECT_FLOAT_EQ(b.boxes[4][3].x1, 10);
  EXPECT_FLOAT_EQ(b.boxes[4][3].y1, 7.5f);
  o.mixup = 0.2;
  EXPECT_THROW(Loader(set, o), Error);
  auto masks = std::make_shared<FunctionSet>(
      5,
      [](size_t i) {
        return Sample{noise({3, 6, 8}, static_cast<unsigned>(i)), -1, {}, noise({6, 8}, static_cast<unsigned>(i + 9))};
      },
      std::vector<std::string>{"a"}, TrainingTruth::kMask);
  LoaderOptions plain;
  plain.shuffle = false;
  Batch m = Loader(masks, plain).next();
  ASSERT_EQ(m.masks.shape(), (Shape{5, 6, 8}));
  EXPECT_EQ(std::memcmp(m.masks.data<uint8_t>() + 48, noise({6, 8}, 10).raw(), 48), 0);
}

TEST(Loader, ErrorsComeWithTheirBatchAndNameTheSample) {
  for (int threads : {0, 2}) {
    auto set = std::make_shared<FunctionSet>(12, [](size_t i) {
      if (i == 5) fail(ErrorKind::kInput, "sample five is broken");
      return Sample{noise({1, 4, i == 9 ? 5 : 4}, 1), 0, {}, {}};
    });
    LoaderOptions o;
    o.batch = 4;
    o.shuffle = false;
    o.threads = threads;
    Loader loader(set, o);
    EXPECT_EQ(loader.next().index, 0);
    for (const char* what : {"sample five", "sample 9 has shape [1, 4, 5]"}) {
      try {
        loader.next();
        FAIL();
      } catch (const Error& e) {
        EXPECT_THAT(e.what(), HasSubstr(what));
      }
    }
    EXPECT_EQ(loader.next().epoch, 1);
  }
  auto wrong = std::make_shared<FunctionSet>(1, [](size_t) { return Sample{noise({1, 4, 4}, 1), 3, {}, {}}; });
  LoaderOptions o;
  EXPECT_THROW(Loader(wrong, o).next(), Error);
  EXPECT_THROW(Loader(std::make_shared<FunctionSet>(0, nullptr), o), Error);
  o.batch = 0;
  EXPECT_THROW(Loader(pictures(4), o), Error);
}

// The first epoch decodes, later ones find what was kept; what does not fit is decoded again.
TEST(Loader, DecodesOnceWhatFits) {
  for (bool fits : {true, false}) {
    std::atomic<int> made = 0;
    LoaderOptions o;
    o.batch = 5;
    o.threads = 2;
    o.epochs = 3;
    o.kept_bytes = fits ? 20 * 360 : 360;
    {
      Loader loader(pictures(20, &made), o);
      for (int i = 0; i < 12; ++i) loader.next();
    }
    // One look at the first sample when the loader is made.
    EXPECT_EQ(made, fits ? 20 : 20 + 19 + 19);
  }
}

// Threads that make batches of several epochs at once want the same sample at the same time.
TEST(Loader, DecodesASampleOnceForAllThreads) {
  std::atomic<int> made = 0;
  auto set = std::make_shared<FunctionSet>(3, [&](size_t i) {
    ++made;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (i == 2) fail(ErrorKind::kInput, "sample two");
    return Sample{noise({1, 4, 4}, static_cast<unsigned>(i)), 0, {}, {}};
  });
  LoaderOptions o;
  o.batch = 1;
  o.shuffle = false;
  o.threads = 4;
  o.ahead = 12;
  o.epochs = 8;
  {
    Loader loader(set, o);
    for (int i = 0; i < 24; ++i) {
      if (i % 3 == 2) EXPECT_THROW(loader.next(), Error);
      else EXPECT_EQ(loader.next().samples[0], static_cast<size_t>(i % 3));
    }
  }
  EXPECT_EQ(made, 2 + 8);  // what fails is tried again each time
}

TEST(Loader, MakesNoMoreAheadThanIsAskedFor) {
  std::atomic<int> made = 0;
  LoaderOptions o;
  o.batch = 2;
  o.threads = 3;
  o.ahead = 4;
  o.kept_bytes = 0;
  Loader loader(pictures(1000, &made), o);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LE(made, 1 + 2 * 4);
  loader.next();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_LE(made, 1 + 2 * 5);
  EXPECT_GT(made, 2);
}

TEST(Loader, EndsWhileThreadsAreBusy) {
  for (int i = 0; i < 20; ++i) {
    LoaderOptions o = options(4);
    Loader loader(pictures(64), o);
    for (int k = 0; k < i % 4; ++k) loader.next();
    if (i % 2) loader.seek(3, 2);
  }
}

TEST_F(DataTest, AFolderOfPicturesIsLoaded) {
  for (int i = 0; i < 30; ++i)
    picture("p/" + std::string(i % 2 ? "a/" : "b/") + std::to_string(i) + ".jpg", static_cast<unsigned>(i), 20 + i, 30 - i % 7);
  DataParts d = open_dataset(path("p") + ",validation=0,test=0");
  LoaderOptions o;
  o.batch = 8;
  o.threads = 2;
  o.augment = parse_augment("resized-crop,flip");
  EXPECT_THROW(Loader(d.train, o).next(), Error);  // of different sizes
  o.augment.height = o.augment.width = 16;
  Loader loader(d.train, o);
  EXPECT_EQ(loader.next().inputs.shape(), (Shape{8, 3, 16, 16}));
}

}  // namespace
}  // namespace lathe
