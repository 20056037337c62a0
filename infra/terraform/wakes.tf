resource "aws_sqs_queue" "wakes" {
  name = "${var.name}-wakes"
  # Six times the function's timeout, as Lambda asks for.
  visibility_timeout_seconds = 420
  message_retention_seconds  = 3600
  sqs_managed_sse_enabled    = true

  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.failed_wakes.arn
    maxReceiveCount     = 5
  })
}

resource "aws_sqs_queue" "failed_wakes" {
  name                      = "${var.name}-failed-wakes"
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = true
}

# A wake looks at everything that is due, so many at once are one, and a few instances are enough.
resource "aws_lambda_event_source_mapping" "wakes" {
  event_source_arn = aws_sqs_queue.wakes.arn
  function_name    = aws_lambda_function.function["history"].arn
  batch_size       = 10

  scaling_config {
    maximum_concurrency = 2
  }
}

resource "aws_scheduler_schedule_group" "wakes" {
  name = "${var.name}-wakes"
}

resource "aws_scheduler_schedule" "sweep" {
  name                = "${var.name}-sweep"
  description         = "Finds timers that no wake reported"
  schedule_expression = var.sweep_rate

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = aws_lambda_function.function["history"].arn
    role_arn = aws_iam_role.scheduler.arn
    input    = jsonencode({ wake = "sweep" })

    retry_policy {
      maximum_retry_attempts       = 2
      maximum_event_age_in_seconds = 300
    }
  }
}

resource "aws_scheduler_schedule" "housekeeping" {
  name                = "${var.name}-housekeeping"
  description         = "Finishes the deletion of namespaces"
  schedule_expression = var.housekeeping_rate

  flexible_time_window {
    mode                      = "FLEXIBLE"
    maximum_window_in_minutes = 15
  }

  target {
    arn      = aws_lambda_function.function["frontend"].arn
    role_arn = aws_iam_role.scheduler.arn
    input    = jsonencode({ wake = "housekeeping" })

    retry_policy {
      maximum_retry_attempts       = 2
      maximum_event_age_in_seconds = 3600
    }
  }
}
