#!/usr/bin/env bash
# Creates the probation_offender_events topic and two queues subscribed to it, so that you can read published events.
# Runs in two places: as LocalStack's own ready hook in its Docker image (mounted in /etc/localstack/init/ready.d/),
# and by run-without-docker.sh. Both have awslocal on the PATH. Safe to run again: every call finds what is there.
set -euo pipefail

if ! command -v awslocal >/dev/null; then
  echo "setup-sns.sh: awslocal is not on the PATH; outside Docker, use run-without-docker.sh" >&2
  exit 1
fi

# LocalStack takes the account 000000000000 from these dummy credentials; someone's real ones must not be used.
unset AWS_PROFILE AWS_DEFAULT_PROFILE AWS_SESSION_TOKEN
export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
export AWS_DEFAULT_REGION=eu-west-2 AWS_REGION=eu-west-2 AWS_DEFAULT_OUTPUT=text AWS_PAGER=""

topic_arn=$(awslocal sns create-topic --name probation_offender_events --query TopicArn)

# An SQS ARN follows from the queue's name: no calls to ask for it.
queue_arn_prefix=arn:aws:sqs:eu-west-2:000000000000
dlq_arn=$queue_arn_prefix:probation_offender_events_dl_queue
queue_arn=$queue_arn_prefix:probation_offender_events_queue

awslocal sqs create-queue --queue-name probation_offender_events_dl_queue --query QueueUrl >/dev/null

# RedrivePolicy is a JSON document inside a JSON string, hence the escapes.
queue_url=$(awslocal sqs create-queue --queue-name probation_offender_events_queue --query QueueUrl \
  --attributes "{\"RedrivePolicy\": \"{\\\"deadLetterTargetArn\\\": \\\"$dlq_arn\\\", \\\"maxReceiveCount\\\": \\\"3\\\"}\"}")

# Neither a filter nor raw delivery: the queue gets every event, in SNS's envelope, as real subscribers do by default.
awslocal sns subscribe --topic-arn "$topic_arn" --protocol sqs --notification-endpoint "$queue_arn" >/dev/null

# The sandbox's page empties a separate queue, so that it takes nothing away from the one above.
awslocal sqs create-queue --queue-name sandbox_page_queue --query QueueUrl >/dev/null
awslocal sns subscribe --topic-arn "$topic_arn" --protocol sqs --notification-endpoint "$queue_arn_prefix:sandbox_page_queue" >/dev/null

echo "topic: $topic_arn"
echo "queue: $queue_url"
