#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "crew.hpp"

using iris_fast::Crew;
using iris_fast::Share;
using iris_fast::TaskContext;
using iris_fast::ThreadPool;

namespace {

// Plain numbers, so that ThreadSanitizer looks too: each part writes its own, and the leader reads them.
void parts_cover_every_loop_once_and_are_done_when_it_ends() {
  for (const std::size_t members : {1, 2, 3, 6}) {
    ThreadPool pool(members);
    for (int repeat = 0; repeat < 5; ++repeat) {
      Crew crew(members);
      std::vector<int> in_part(members, 0);
      const auto task = [&](std::size_t rank, std::size_t, TaskContext& context) {
        if (rank > 0) return crew.follow(rank, context);
        for (std::size_t loop = 0; loop < 200; ++loop) {
          const std::size_t count = loop % 17, grain = 1 + loop % 3;
          std::vector<int> visits(count, 0);
          crew.split(count, grain, [&](std::size_t who, Share share) {
            CHECK(who < members && ++in_part[who] == 1);
            CHECK(share.begin < share.end && share.end <= count);
            CHECK(members == 1 || share.end - share.begin <= grain);
            for (std::size_t i = share.begin; i < share.end; ++i) ++visits[i];
            --in_part[who];
          });
          for (const int visit : visits) CHECK(visit == 1);
        }
        crew.end();
      };
      pool.run(members, task, nullptr);
    }
  }
}

void others_take_parts_of_a_long_loop() {
  ThreadPool pool(2);
  Crew crew(2);
  std::atomic<int> by_the_other{0};
  const auto task = [&](std::size_t rank, std::size_t, TaskContext& context) {
    if (rank > 0) return crew.follow(rank, context);
    for (int loop = 0; loop < 50 && by_the_other == 0; ++loop)
      crew.split(20, 1, [&](std::size_t who, Share) {
        if (who > 0) ++by_the_other;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      });
    crew.end();
  };
  pool.run(2, task, nullptr);
  CHECK(by_the_other > 0);
}

void a_follower_that_never_comes_is_not_waited_for() {
  Crew crew(3);
  std::size_t covered = 0;
  crew.split(10, 2, [&](std::size_t who, Share share) {
    CHECK(who == 0);
    covered += share.end - share.begin;
  });
  CHECK(covered == 10);
}

void a_leader_that_fails_leaves_nobody_behind() {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 5; ++repeat) {
    Crew crew(3);
    const auto task = [&](std::size_t rank, std::size_t, TaskContext& context) {
      if (rank > 0) return crew.follow(rank, context);
      throw std::domain_error("one");
    };
    CHECK_THROWS(pool.run(3, task, nullptr), std::domain_error);
  }
}

}  // namespace

int main() {
  parts_cover_every_loop_once_and_are_done_when_it_ends();
  others_take_parts_of_a_long_loop();
  a_follower_that_never_comes_is_not_waited_for();
  a_leader_that_fails_leaves_nobody_behind();
}
