import io.temporal.client.WorkflowOptions;
import io.temporal.client.WorkflowStub;
import io.temporal.client.schedules.Schedule;
import io.temporal.client.schedules.ScheduleActionExecutionStartWorkflow;
import io.temporal.client.schedules.ScheduleActionStartWorkflow;
import io.temporal.client.schedules.ScheduleClient;
import io.temporal.client.schedules.ScheduleHandle;
import io.temporal.client.schedules.ScheduleIntervalSpec;
import io.temporal.client.schedules.ScheduleOptions;
import io.temporal.client.schedules.ScheduleSpec;
import io.temporal.client.schedules.ScheduleState;
import io.temporal.worker.Worker;
import io.temporal.workflow.SignalMethod;
import io.temporal.workflow.UpdateMethod;
import io.temporal.workflow.UpdateValidatorMethod;
import io.temporal.workflow.Workflow;
import io.temporal.workflow.WorkflowInterface;
import io.temporal.workflow.WorkflowMethod;
import java.time.Duration;
import java.util.Collections;
import java.util.UUID;

/** Updates and schedules. */
public class Extras {
  static final boolean THERE = true;

  @WorkflowInterface
  public interface Multiplied {
    @WorkflowMethod
    int multiplied(int total);

    @UpdateMethod
    int multiply(int factor);

    @UpdateValidatorMethod(updateName = "multiply")
    void refuseZero(int factor);

    @SignalMethod
    void finish();
  }

  public static class MultipliedImpl implements Multiplied {
    private int total;
    private boolean done;

    @Override
    public int multiplied(int first) {
      total = first;
      Workflow.await(() -> done);
      return total;
    }

    @Override
    public int multiply(int factor) {
      Workflow.sleep(Duration.ofMillis(10));
      return total *= factor;
    }

    @Override
    public void refuseZero(int factor) {
      if (factor == 0) throw new IllegalArgumentException("not by zero");
    }

    @Override
    public void finish() {
      done = true;
    }
  }

  private final Sample sample;

  Extras(Sample sample) {
    this.sample = sample;
  }

  void register(Worker worker) {
    worker.registerWorkflowImplementationTypes(MultipliedImpl.class);
  }

  void update() {
    WorkflowStub stub = sample.start("Multiplied", 2);
    int total = stub.update("multiply", Integer.class, 3);
    Sample.check(total == 6, total);
    Throwable refused = Sample.failureOf(() -> stub.update("multiply", Integer.class, 0));
    Sample.check(refused.getCause().getMessage().contains("not by zero"), refused.getCause());
    stub.signal("finish");
    Sample.check(stub.getResult(Integer.class) == 6, "another result");
  }

  void schedule() {
    WorkflowOptions options =
        WorkflowOptions.newBuilder().setTaskQueue(Sample.QUEUE).setWorkflowId("release-" + UUID.randomUUID()).build();
    Schedule schedule =
        Schedule.newBuilder()
            .setAction(
                ScheduleActionStartWorkflow.newBuilder()
                    .setWorkflowType("Countdown")
                    .setArguments(0)
                    .setOptions(options)
                    .build())
            .setSpec(
                ScheduleSpec.newBuilder()
                    .setIntervals(Collections.singletonList(new ScheduleIntervalSpec(Duration.ofHours(1))))
                    .build())
            .build();
    ScheduleHandle handle =
        ScheduleClient.newInstance(sample.client.getWorkflowServiceStubs())
            .createSchedule("release-" + UUID.randomUUID(), schedule, ScheduleOptions.newBuilder().build());
    handle.trigger();
    Sample.eventually(() -> handle.describe().getInfo().getRecentActions().size() == 1);
    ScheduleActionExecutionStartWorkflow ran =
        (ScheduleActionExecutionStartWorkflow) handle.describe().getInfo().getRecentActions().get(0).getAction();
    String seen = sample.client.newUntypedWorkflowStub(ran.getWorkflowId()).getResult(String.class);
    Sample.check(seen.equals("lift-off"), seen);
    handle.pause("rest");
    ScheduleState state = handle.describe().getSchedule().getState();
    Sample.check(state.isPaused() && "rest".equals(state.getNote()), state);
    handle.delete();
  }
}
