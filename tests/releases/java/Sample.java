import io.temporal.activity.Activity;
import io.temporal.activity.ActivityCancellationType;
import io.temporal.activity.ActivityInterface;
import io.temporal.activity.ActivityOptions;
import io.temporal.activity.LocalActivityOptions;
import io.temporal.api.common.v1.WorkflowExecution;
import io.temporal.api.enums.v1.WorkflowExecutionStatus;
import io.temporal.api.workflowservice.v1.DescribeWorkflowExecutionRequest;
import io.temporal.api.workflowservice.v1.DescribeWorkflowExecutionResponse;
import io.temporal.api.workflowservice.v1.ListWorkflowExecutionsRequest;
import io.temporal.client.WorkflowClient;
import io.temporal.client.WorkflowException;
import io.temporal.client.WorkflowExecutionAlreadyStarted;
import io.temporal.client.WorkflowOptions;
import io.temporal.client.WorkflowStub;
import io.temporal.common.RetryOptions;
import io.temporal.failure.ApplicationFailure;
import io.temporal.failure.CanceledFailure;
import io.temporal.failure.TerminatedFailure;
import io.temporal.serviceclient.WorkflowServiceStubs;
import io.temporal.serviceclient.WorkflowServiceStubsOptions;
import io.temporal.worker.Worker;
import io.temporal.worker.WorkerFactory;
import io.temporal.worker.WorkerFactoryOptions;
import io.temporal.workflow.Async;
import io.temporal.workflow.ChildWorkflowOptions;
import io.temporal.workflow.Promise;
import io.temporal.workflow.QueryMethod;
import io.temporal.workflow.SignalMethod;
import io.temporal.workflow.Workflow;
import io.temporal.workflow.WorkflowInterface;
import io.temporal.workflow.WorkflowMethod;
import java.time.Duration;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * Runs workflows with whatever release of the Java SDK is on the class path, against the server at the given address.
 * Every step prints `ok NAME`, `not ok NAME: why` or `skip NAME: not in this release`. What release 1.0.0 lacks stands in
 * Extras, of which there are two: updates, schedules.
 */
public class Sample {
  static final String QUEUE = "release-" + UUID.randomUUID();

  @ActivityInterface
  public interface Activities {
    String greet(String name);

    String shout(String name);

    void hold();
  }

  public static class ActivitiesImpl implements Activities {
    @Override
    public String greet(String name) {
      int attempt = Activity.getExecutionContext().getInfo().getAttempt();
      if (attempt < 3) throw new IllegalStateException("attempt " + attempt);
      return "hello " + name;
    }

    @Override
    public String shout(String name) {
      return name.toUpperCase();
    }

    @Override
    public void hold() {
      while (true) {
        Activity.getExecutionContext().heartbeat(null);
        pause();
      }
    }
  }

  @WorkflowInterface
  public interface Greeting {
    @WorkflowMethod
    String greeting(String name);
  }

  @WorkflowInterface
  public interface Counter {
    @WorkflowMethod
    int counter();

    @SignalMethod
    void add(int amount);

    @SignalMethod
    void finish();

    @QueryMethod
    int current();
  }

  @WorkflowInterface
  public interface Family {
    @WorkflowMethod
    int family();
  }

  @WorkflowInterface
  public interface Countdown {
    @WorkflowMethod
    String countdown(int left);
  }

  @WorkflowInterface
  public interface Failing {
    @WorkflowMethod
    void failing();
  }

  @WorkflowInterface
  public interface Holding {
    @WorkflowMethod
    void holding();
  }

  static Activities activities() {
    return Workflow.newActivityStub(
        Activities.class,
        ActivityOptions.newBuilder()
            .setStartToCloseTimeout(Duration.ofSeconds(30))
            .setHeartbeatTimeout(Duration.ofSeconds(5))
            .setCancellationType(ActivityCancellationType.WAIT_CANCELLATION_COMPLETED)
            .setRetryOptions(RetryOptions.newBuilder().setInitialInterval(Duration.ofMillis(10)).build())
            .build());
  }

  public static class GreetingImpl implements Greeting {
    @Override
    public String greeting(String name) {
      LocalActivityOptions local =
          LocalActivityOptions.newBuilder().setScheduleToCloseTimeout(Duration.ofSeconds(30)).build();
      return Workflow.newLocalActivityStub(Activities.class, local).shout(activities().greet(name));
    }
  }

  public static class CounterImpl implements Counter {
    private int total;
    private boolean done;

    @Override
    public int counter() {
      Workflow.await(() -> done);
      return total;
    }

    @Override
    public void add(int amount) {
      total += amount;
    }

    @Override
    public void finish() {
      done = true;
    }

    @Override
    public int current() {
      return total;
    }
  }

  public static class FamilyImpl implements Family {
    @Override
    public int family() {
      String id = Workflow.getInfo().getWorkflowId() + "-child";
      Counter child =
          Workflow.newChildWorkflowStub(Counter.class, ChildWorkflowOptions.newBuilder().setWorkflowId(id).build());
      Promise<Integer> total = Async.function(child::counter);
      Workflow.getWorkflowExecution(child).get();
      child.add(5);
      Workflow.newExternalWorkflowStub(Counter.class, id).finish();
      return total.get();
    }
  }

  public static class CountdownImpl implements Countdown {
    @Override
    public String countdown(int left) {
      Workflow.sleep(Duration.ofMillis(10));
      if (left > 0) Workflow.newContinueAsNewStub(Countdown.class).countdown(left - 1);
      return "lift-off";
    }
  }

  public static class FailingImpl implements Failing {
    @Override
    public void failing() {
      throw ApplicationFailure.newNonRetryableFailure("no luck", "Luckless", 7);
    }
  }

  public static class HoldingImpl implements Holding {
    @Override
    public void holding() {
      activities().hold();
    }
  }

  static final Class<?>[] WORKFLOWS = {
    GreetingImpl.class, CounterImpl.class, FamilyImpl.class, CountdownImpl.class, FailingImpl.class, HoldingImpl.class
  };

  final WorkflowClient client;

  Sample(WorkflowClient client) {
    this.client = client;
  }

  static void pause() {
    try {
      Thread.sleep(100);
    } catch (InterruptedException interrupted) {
      throw new IllegalStateException(interrupted);
    }
  }

  static void check(boolean right, Object seen) {
    if (!right) throw new AssertionError("got " + seen);
  }

  static void eventually(Supplier<Boolean> look) {
    for (int tries = 0; tries < 200; tries++) {
      if (look.get()) return;
      pause();
    }
    throw new AssertionError("it did not happen within 20 seconds");
  }

  static Throwable failureOf(Runnable attempt) {
    try {
      attempt.run();
    } catch (WorkflowException failure) {
      return failure;
    }
    throw new AssertionError("it did not fail");
  }

  WorkflowStub stub(String type, String queue) {
    WorkflowOptions options =
        WorkflowOptions.newBuilder().setTaskQueue(queue).setWorkflowId("release-" + UUID.randomUUID()).build();
    return client.newUntypedWorkflowStub(type, options);
  }

  WorkflowStub start(String type, Object... arguments) {
    WorkflowStub stub = stub(type, QUEUE);
    stub.start(arguments);
    return stub;
  }

  DescribeWorkflowExecutionResponse describe(WorkflowExecution execution) {
    return client
        .getWorkflowServiceStubs()
        .blockingStub()
        .describeWorkflowExecution(
            DescribeWorkflowExecutionRequest.newBuilder().setNamespace("default").setExecution(execution).build());
  }

  void greet() {
    String greeting = start("Greeting", "you").getResult(String.class);
    check(greeting.equals("HELLO YOU"), greeting);
  }

  void signal() {
    WorkflowStub stub = start("Counter");
    stub.signal("add", 2);
    stub.signal("add", 3);
    check(stub.query("current", Integer.class) == 5, "another total");
    stub.signal("finish");
    check(stub.getResult(Integer.class) == 5, "another result");
    check(stub.query("current", Integer.class) == 5, "another total once closed");
    WorkflowExecutionStatus status = describe(stub.getExecution()).getWorkflowExecutionInfo().getStatus();
    check(status == WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_COMPLETED, status);
  }

  void signalWithStart() {
    WorkflowStub stub = stub("Counter", QUEUE);
    stub.signalWithStart("add", new Object[] {4}, new Object[] {});
    stub.signal("finish");
    check(stub.getResult(Integer.class) == 4, "another result");
  }

  void children() {
    check(start("Family").getResult(Integer.class) == 5, "another result");
  }

  void countDown() {
    String seen = start("Countdown", 2).getResult(String.class);
    check(seen.equals("lift-off"), seen);
  }

  void fail() {
    WorkflowStub stub = start("Failing");
    Throwable failure = failureOf(() -> stub.getResult(Void.class)).getCause();
    check(failure instanceof ApplicationFailure, failure);
    ApplicationFailure application = (ApplicationFailure) failure;
    check(application.getType().equals("Luckless") && application.getMessage().contains("no luck"), application);
    check(application.getDetails().get(Integer.class) == 7, application.getDetails());
  }

  void cancel() {
    WorkflowStub stub = start("Holding");
    eventually(
        () -> {
          DescribeWorkflowExecutionResponse seen = describe(stub.getExecution());
          return seen.getPendingActivitiesCount() == 1 && seen.getPendingActivities(0).hasLastStartedTime();
        });
    stub.cancel();
    Throwable failure = failureOf(() -> stub.getResult(Void.class)).getCause();
    check(failure instanceof CanceledFailure, failure);
  }

  void refuseAndTerminate() {
    WorkflowStub stub = start("Counter");
    WorkflowOptions same =
        WorkflowOptions.newBuilder().setTaskQueue(QUEUE).setWorkflowId(stub.getExecution().getWorkflowId()).build();
    Throwable refused = failureOf(() -> client.newUntypedWorkflowStub("Counter", same).start());
    check(refused instanceof WorkflowExecutionAlreadyStarted, refused);
    stub.terminate("enough");
    Throwable failure = failureOf(() -> stub.getResult(Integer.class)).getCause();
    check(failure instanceof TerminatedFailure, failure);
  }

  /** Answers queries without a cache, which replays the whole history. */
  void listAndReplay() {
    WorkerFactory factory =
        WorkerFactory.newInstance(client, WorkerFactoryOptions.newBuilder().setWorkflowCacheSize(0).build());
    String queue = QUEUE + "-replay";
    Worker worker = factory.newWorker(queue);
    worker.registerWorkflowImplementationTypes(CounterImpl.class);
    factory.start();
    try {
      WorkflowStub stub = stub("Counter", queue);
      stub.start();
      stub.signal("add", 6);
      stub.signal("finish");
      check(stub.getResult(Integer.class) == 6, "another result");
      check(stub.query("current", Integer.class) == 6, "another total, replayed");
      String query = "WorkflowId = '" + stub.getExecution().getWorkflowId() + "'";
      ListWorkflowExecutionsRequest request =
          ListWorkflowExecutionsRequest.newBuilder().setNamespace("default").setQuery(query).build();
      eventually(
          () ->
              client.getWorkflowServiceStubs().blockingStub().listWorkflowExecutions(request).getExecutionsCount()
                  == 1);
    } finally {
      factory.shutdownNow();
    }
  }

  static boolean step(String name, boolean there, Runnable body) {
    if (!there) {
      System.out.printf("skip %s: not in this release%n", name);
      return true;
    }
    try {
      CompletableFuture.runAsync(body).get(60, TimeUnit.SECONDS);
      System.out.printf("ok %s%n", name);
      return true;
    } catch (Exception fault) {
      System.out.printf("not ok %s: %s%n", name, fault);
      fault.printStackTrace();
      return false;
    }
  }

  public static void main(String[] arguments) {
    WorkflowServiceStubs service =
        WorkflowServiceStubs.newInstance(WorkflowServiceStubsOptions.newBuilder().setTarget(arguments[0]).build());
    Sample sample = new Sample(WorkflowClient.newInstance(service));
    Extras extras = new Extras(sample);
    WorkerFactory factory = WorkerFactory.newInstance(sample.client);
    Worker worker = factory.newWorker(QUEUE);
    worker.registerWorkflowImplementationTypes(WORKFLOWS);
    worker.registerActivitiesImplementations(new ActivitiesImpl());
    extras.register(worker);
    factory.start();
    boolean all = step("activity_and_local_activity", true, sample::greet);
    all &= step("signal_and_query", true, sample::signal);
    all &= step("signal_with_start", true, sample::signalWithStart);
    all &= step("update", Extras.THERE, extras::update);
    all &= step("child_and_external_signal", true, sample::children);
    all &= step("timer_and_continue_as_new", true, sample::countDown);
    all &= step("failure", true, sample::fail);
    all &= step("cancellation", true, sample::cancel);
    all &= step("id_in_use_and_termination", true, sample::refuseAndTerminate);
    all &= step("list_and_replay", true, sample::listAndReplay);
    all &= step("schedule", Extras.THERE, extras::schedule);
    System.out.flush();
    Runtime.getRuntime().halt(all ? 0 : 1);
  }
}
