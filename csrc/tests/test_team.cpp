#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "team.hpp"

using iris_fast::Interrupted;
using iris_fast::Member;
using iris_fast::TaskContext;
using iris_fast::Team;
using iris_fast::ThreadPool;

namespace {

// What the others wrote before a wait is there after it: plain numbers, so that ThreadSanitizer looks too.
void what_others_wrote_is_there_after_a_wait() {
  for (const std::size_t members : {1, 2, 3}) {
    ThreadPool pool(members);
    Team team(members);
    std::vector<std::size_t> written(members, 0);
    pool.run(
        members,
        [&](std::size_t rank, std::size_t, TaskContext& context) {
          const Member member{team, rank, context};
          for (std::size_t round = 1; round <= 300; ++round) {
            written[rank] = round;
            member.wait();
            for (const std::size_t found : written) CHECK(found == round);
            member.wait();
          }
        },
        nullptr);
  }
}

// Long enough apart that those who wait fall asleep.
void a_member_that_comes_late_wakes_the_others() {
  ThreadPool pool(2);
  Team team(2);
  std::atomic<bool> came{false};
  pool.run(
      2,
      [&](std::size_t rank, std::size_t, TaskContext& context) {
        if (rank == 1) {
          std::this_thread::sleep_for(std::chrono::milliseconds(60));
          came = true;
        }
        team.wait(context);
        CHECK(came);
      },
      nullptr);
}

void a_member_that_fails_leaves_nobody_waiting() {
  ThreadPool pool(3);
  for (int repeat = 0; repeat < 5; ++repeat) {
    Team team(3);
    const auto task = [&](std::size_t rank, std::size_t, TaskContext& context) {
      if (rank == 1) throw std::domain_error("one");
      team.wait(context);
    };
    CHECK_THROWS(pool.run(3, task, nullptr), std::domain_error);
  }
}

void a_wait_ends_when_the_caller_stops_the_run() {
  ThreadPool pool(2);
  Team team(3);  // the third never comes
  const auto task = [&](std::size_t, std::size_t, TaskContext& context) { team.wait(context); };
  CHECK_THROWS(pool.run(2, task, [] { return true; }), Interrupted);
}

class NoContext final : public TaskContext {
  void check() override {}
};

void shares_cover_everything_once() {
  NoContext context;
  for (const std::size_t members : {1, 2, 3, 8})
    for (const std::size_t count : {0, 1, 2, 7, 64}) {
      Team team(members);
      std::size_t covered = 0;
      for (std::size_t rank = 0; rank < members; ++rank) {
        const auto share = Member{team, rank, context}.share(count);
        CHECK(share.begin == covered && share.end >= share.begin);
        CHECK(share.end - share.begin <= count / members + 1);
        covered = share.end;
      }
      CHECK(covered == count);
    }
}

}  // namespace

int main() {
  what_others_wrote_is_there_after_a_wait();
  a_member_that_comes_late_wakes_the_others();
  a_member_that_fails_leaves_nobody_waiting();
  a_wait_ends_when_the_caller_stops_the_run();
  shares_cover_everything_once();
}
