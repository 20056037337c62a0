import io.temporal.worker.Worker;

/** For releases without updates and schedules. */
class Extras {
  static final boolean THERE = false;

  Extras(Sample sample) {}

  void register(Worker worker) {}

  void update() {}

  void schedule() {}
}
