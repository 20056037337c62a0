// Package main runs workflows with whatever release of the Go SDK go.mod names, against the server at the given
// address. Every step prints `ok NAME`, `not ok NAME: why` or `skip NAME: not in this release`. What release 1.0.0 lacks
// stands in files with build tags: updates, schedules.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"strings"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

var (
	run    = fmt.Sprintf("release-%d-%d", time.Now().UnixNano(), rand.Int63())
	ctx    = context.Background()
	number int
)

func Greet(ctx context.Context, name string) (string, error) {
	if attempt := activity.GetInfo(ctx).Attempt; attempt < 3 {
		return "", fmt.Errorf("attempt %d", attempt)
	}
	return "hello " + name, nil
}

func Shout(name string) (string, error) { return strings.ToUpper(name), nil }

func Hold(ctx context.Context) error {
	for {
		activity.RecordHeartbeat(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func withActivities(ctx workflow.Context) workflow.Context {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ScheduleToCloseTimeout: time.Minute, // release 1.0.0 takes none for one that is over
		StartToCloseTimeout:    30 * time.Second,
		HeartbeatTimeout:       5 * time.Second,
		RetryPolicy:            &temporal.RetryPolicy{InitialInterval: 10 * time.Millisecond, BackoffCoefficient: 2},
		WaitForCancellation:    true,
	})
	return workflow.WithLocalActivityOptions(ctx, workflow.LocalActivityOptions{ScheduleToCloseTimeout: 30 * time.Second})
}

func Greeting(ctx workflow.Context, name string) (greeting string, err error) {
	ctx = withActivities(ctx)
	if err = workflow.ExecuteActivity(ctx, Greet, name).Get(ctx, &greeting); err != nil {
		return
	}
	err = workflow.ExecuteLocalActivity(ctx, Shout, greeting).Get(ctx, &greeting)
	return
}

func Counter(ctx workflow.Context) (int, error) {
	total, done := 0, false
	if err := workflow.SetQueryHandler(ctx, "current", func() (int, error) { return total, nil }); err != nil {
		return 0, err
	}
	if err := handleUpdates(ctx, &total); err != nil {
		return 0, err
	}
	selector := workflow.NewSelector(ctx)
	selector.AddReceive(workflow.GetSignalChannel(ctx, "add"), func(c workflow.ReceiveChannel, more bool) {
		var amount int
		c.Receive(ctx, &amount)
		total += amount
	})
	selector.AddReceive(workflow.GetSignalChannel(ctx, "finish"), func(c workflow.ReceiveChannel, more bool) {
		c.Receive(ctx, nil)
		done = true
	})
	for !done {
		selector.Select(ctx)
	}
	return total, nil
}

func Family(ctx workflow.Context) (total int, err error) {
	id := workflow.GetInfo(ctx).WorkflowExecution.ID + "-child"
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{WorkflowID: id})
	child := workflow.ExecuteChildWorkflow(ctx, Counter)
	if err = child.SignalChildWorkflow(ctx, "add", 5).Get(ctx, nil); err != nil {
		return
	}
	if err = workflow.SignalExternalWorkflow(ctx, id, "", "finish", nil).Get(ctx, nil); err != nil {
		return
	}
	err = child.Get(ctx, &total)
	return
}

func Countdown(ctx workflow.Context, left int) (string, error) {
	if err := workflow.Sleep(ctx, 10*time.Millisecond); err != nil {
		return "", err
	}
	if left > 0 {
		return "", workflow.NewContinueAsNewError(ctx, Countdown, left-1)
	}
	return "lift-off", nil
}

func Failing(ctx workflow.Context) error {
	return temporal.NewNonRetryableApplicationError("no luck", "Luckless", nil, map[string]int{"at": 7})
}

func Holding(ctx workflow.Context) error {
	ctx = withActivities(ctx)
	return workflow.ExecuteActivity(ctx, Hold).Get(ctx, nil)
}

func options() client.StartWorkflowOptions {
	number++
	return client.StartWorkflowOptions{ID: fmt.Sprintf("%s-%d", run, number), TaskQueue: run}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(right bool, seen interface{}) {
	if !right {
		panic(fmt.Sprintf("got %v", seen))
	}
}

func start(c client.Client, definition interface{}, args ...interface{}) client.WorkflowRun {
	handle, err := c.ExecuteWorkflow(ctx, options(), definition, args...)
	must(err)
	return handle
}

func signal(c client.Client, id, name string, arg interface{}) {
	must(c.SignalWorkflow(ctx, id, "", name, arg))
}

func query(c client.Client, id string) (total int) {
	value, err := c.QueryWorkflow(ctx, id, "", "current")
	must(err)
	must(value.Get(&total))
	return
}

func result(handle client.WorkflowRun) (total int) {
	must(handle.Get(ctx, &total))
	return
}

func eventually(look func() bool) {
	for tries := 0; tries < 200; tries++ {
		if look() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	panic("it did not happen within 20 seconds")
}

func greeted(c client.Client) {
	var greeting string
	must(start(c, Greeting, "you").Get(ctx, &greeting))
	check(greeting == "HELLO YOU", greeting)
}

func signalled(c client.Client) {
	handle := start(c, Counter)
	signal(c, handle.GetID(), "add", 2)
	signal(c, handle.GetID(), "add", 3)
	check(query(c, handle.GetID()) == 5, "another total")
	signal(c, handle.GetID(), "finish", nil)
	check(result(handle) == 5, "another result")
	check(query(c, handle.GetID()) == 5, "another total once closed")
	described, err := c.DescribeWorkflowExecution(ctx, handle.GetID(), "")
	must(err)
	check(described.WorkflowExecutionInfo.Status == enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, described)
}

func signalledWithStart(c client.Client) {
	o := options()
	handle, err := c.SignalWithStartWorkflow(ctx, o.ID, "add", 4, o, Counter)
	must(err)
	signal(c, o.ID, "finish", nil)
	check(result(handle) == 4, "another result")
}

func children(c client.Client) { check(result(start(c, Family)) == 5, "another result") }

func countedDown(c client.Client) {
	var seen string
	must(start(c, Countdown, 2).Get(ctx, &seen))
	check(seen == "lift-off", seen)
}

func failed(c client.Client) {
	err := start(c, Failing).Get(ctx, nil)
	var failure *temporal.ApplicationError
	check(errors.As(err, &failure), err)
	var details map[string]int
	must(failure.Details(&details))
	check(failure.Type() == "Luckless" && details["at"] == 7 && strings.Contains(failure.Error(), "no luck"), failure)
}

func cancelled(c client.Client) {
	handle := start(c, Holding)
	eventually(func() bool {
		described, err := c.DescribeWorkflowExecution(ctx, handle.GetID(), "")
		must(err)
		return len(described.PendingActivities) == 1 && described.PendingActivities[0].LastStartedTime != nil
	})
	must(c.CancelWorkflow(ctx, handle.GetID(), ""))
	err := handle.Get(ctx, nil)
	var failure *temporal.CanceledError
	check(errors.As(err, &failure), err)
}

func refusedAndTerminated(c client.Client) {
	o := options()
	handle, err := c.ExecuteWorkflow(ctx, o, Counter)
	must(err)
	again, err := c.ExecuteWorkflow(ctx, o, Counter) // the SDK reads the run from the refusal's details
	must(err)
	check(again.GetRunID() == handle.GetRunID(), again.GetRunID())
	must(c.TerminateWorkflow(ctx, o.ID, "", "enough"))
	err = handle.Get(ctx, nil)
	var failure *temporal.TerminatedError
	check(errors.As(err, &failure), err)
}

func listedAndReplayed(c client.Client) {
	handle := start(c, Greeting, "you")
	must(handle.Get(ctx, nil))
	eventually(func() bool {
		found, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: fmt.Sprintf("WorkflowId = '%s'", handle.GetID()),
		})
		must(err)
		return len(found.Executions) == 1
	})
	got, err := c.DescribeWorkflowExecution(ctx, handle.GetID(), "")
	must(err)
	replayer := worker.NewWorkflowReplayer()
	replayer.RegisterWorkflow(Greeting)
	must(replay(c, replayer, got.WorkflowExecutionInfo.Execution.WorkflowId, handle.GetRunID()))
}

func step(name string, there bool, c client.Client, body func(client.Client)) (right bool) {
	if !there {
		fmt.Printf("skip %s: not in this release\n", name)
		return true
	}
	outcome := make(chan interface{}, 1)
	go func() {
		defer func() { outcome <- recover() }()
		body(c)
	}()
	select {
	case fault := <-outcome:
		if fault == nil {
			fmt.Printf("ok %s\n", name)
			return true
		}
		fmt.Printf("not ok %s: %v\n", name, fault)
	case <-time.After(time.Minute):
		fmt.Printf("not ok %s: 60 seconds were not enough\n", name)
	}
	return false
}

func main() {
	c, err := client.NewClient(client.Options{HostPort: os.Args[1]})
	must(err)
	w := worker.New(c, run, worker.Options{})
	for _, definition := range []interface{}{Greeting, Counter, Family, Countdown, Failing, Holding} {
		w.RegisterWorkflow(definition)
	}
	for _, definition := range []interface{}{Greet, Shout, Hold} {
		w.RegisterActivity(definition)
	}
	must(w.Start())
	all := true
	for _, each := range []struct {
		name  string
		there bool
		body  func(client.Client)
	}{
		{"activity_and_local_activity", true, greeted},
		{"signal_and_query", true, signalled},
		{"signal_with_start", true, signalledWithStart},
		{"update", haveUpdates, updated},
		{"child_and_external_signal", true, children},
		{"timer_and_continue_as_new", true, countedDown},
		{"failure", true, failed},
		{"cancellation", true, cancelled},
		{"id_in_use_and_termination", true, refusedAndTerminated},
		{"list_and_replay", true, listedAndReplayed},
		{"schedule", haveSchedules, scheduled},
	} {
		all = step(each.name, each.there, c, each.body) && all
	}
	w.Stop()
	if !all {
		os.Exit(1)
	}
}
