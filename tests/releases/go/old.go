//go:build !current

package main

import (
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

const (
	haveUpdates   = false
	haveSchedules = false
)

func handleUpdates(workflow.Context, *int) error { return nil }

func updated(client.Client) {}

func scheduled(client.Client) {}

func replay(c client.Client, replayer worker.WorkflowReplayer, id, runID string) error {
	events := c.GetWorkflowHistory(ctx, id, runID, false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var read history.History
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			return err
		}
		read.Events = append(read.Events, event)
	}
	return replayer.ReplayWorkflowHistory(nil, &read)
}
