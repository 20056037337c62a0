//go:build current

package main

import (
	"errors"
	"strings"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

const (
	haveUpdates   = true
	haveSchedules = true
)

func handleUpdates(ctx workflow.Context, total *int) error {
	return workflow.SetUpdateHandlerWithOptions(ctx, "multiply",
		func(ctx workflow.Context, factor int) (int, error) {
			if err := workflow.Sleep(ctx, 10*time.Millisecond); err != nil {
				return 0, err
			}
			*total *= factor
			return *total, nil
		},
		workflow.UpdateHandlerOptions{Validator: func(factor int) error {
			if factor == 0 {
				return errors.New("not by zero")
			}
			return nil
		}})
}

func multiply(c client.Client, id string, factor int) (total int, err error) {
	handle, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: "multiply", Args: []interface{}{factor}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return 0, err
	}
	err = handle.Get(ctx, &total)
	return
}

func updated(c client.Client) {
	handle := start(c, Counter)
	signal(c, handle.GetID(), "add", 2)
	total, err := multiply(c, handle.GetID(), 3)
	must(err)
	check(total == 6, total)
	_, err = multiply(c, handle.GetID(), 0)
	check(err != nil && strings.Contains(err.Error(), "not by zero"), err)
	signal(c, handle.GetID(), "finish", nil)
	check(result(handle) == 6, "another result")
}

func scheduled(c client.Client) {
	o := options()
	schedule, err := c.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID:   o.ID + "-schedule",
		Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour}}},
		Action: &client.ScheduleWorkflowAction{
			ID: o.ID, Workflow: Countdown, Args: []interface{}{0}, TaskQueue: o.TaskQueue,
		},
	})
	must(err)
	must(schedule.Trigger(ctx, client.ScheduleTriggerOptions{}))
	var id string
	eventually(func() bool {
		described, err := schedule.Describe(ctx)
		must(err)
		if len(described.Info.RecentActions) == 1 {
			id = described.Info.RecentActions[0].StartWorkflowResult.WorkflowID
		}
		return id != ""
	})
	var seen string
	must(c.GetWorkflow(ctx, id, "").Get(ctx, &seen))
	check(seen == "lift-off", seen)
	must(schedule.Pause(ctx, client.SchedulePauseOptions{Note: "rest"}))
	described, err := schedule.Describe(ctx)
	must(err)
	check(described.Schedule.State.Paused && described.Schedule.State.Note == "rest", described.Schedule.State)
	must(schedule.Delete(ctx))
}

func replay(c client.Client, replayer worker.WorkflowReplayer, id, runID string) error {
	return replayer.ReplayWorkflowExecution(ctx, c.WorkflowService(), nil, "default", workflow.Execution{ID: id, RunID: runID})
}
