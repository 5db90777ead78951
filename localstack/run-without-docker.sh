#!/usr/bin/env bash
# Runs LocalStack (SNS and SQS only) without Docker, in a separate Python virtual environment.
#
#   run-without-docker.sh install   only install (the other commands install when needed)
#   run-without-docker.sh start     start in the background, wait until ready, create the topic and its queue
#   run-without-docker.sh run       the same in the foreground; Ctrl-C stops it
#   run-without-docker.sh stop      stop what start or run started
#
# LOCALSTACK_PORT (4566), LOCALSTACK_HOME (the virtual environment, logs and pid file) and PYTHON (python3.11) may be set.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
port=${LOCALSTACK_PORT:-4566}
endpoint=http://127.0.0.1:$port
home=${LOCALSTACK_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/probation-offender-events/localstack}
mkdir -p "$home"
home=$(cd "$home" && pwd)
venv=$home/localstack-venv
cache=$home/localstack-cache
log=$home/localstack-$port.log
pid_file=$home/localstack-$port.pid
ready_timeout=120

packages=(
  'localstack-core[base-runtime]==4.13.1'
  # Used by LocalStack, though only its much larger "runtime" extra asks for them; SNS fails without moto.
  'moto-ext==5.1.54' 'antlr4-python3-runtime==4.13.2' 'service_identity'
  # LocalStack does not start with the newest releases of these.
  'cryptography==46.0.7' 'pyopenssl==25.3.0' 'cbor2==5.8.0'
  # The awslocal command of setup-sns.sh.
  'awscli==1.44.24' 'awscli-local==0.23.0'
)

fail() {
  echo "run-without-docker.sh: $*" >&2
  exit 1
}

install() {
  # The stamp is written last and holds the list: a half-made environment, or one for another list, is rebuilt.
  local stamp=$venv/installed-packages
  if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "${packages[*]}" ]; then
    return
  fi
  echo "Installing LocalStack in $venv (the first time only; about half a minute) ..."
  # The cache goes as well: LocalStack keeps a list of its plugins there, and finds none with that of another install.
  rm -rf "$venv" "$cache"
  "${PYTHON:-python3.11}" -m venv "$venv" ||
    fail "cannot make a virtual environment: Python 3.11 with its venv module is needed (on Debian: python3.11-venv)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" ||
    fail "pip could not install LocalStack (its message is above); nothing is installed, run this again to retry"
  echo "${packages[*]}" >"$stamp"
}

# Is the process in the pid file there, and is it still LocalStack? (The file may outlive it, and its number be reused.)
running() {
  "$venv/bin/python" -c '
import psutil, sys
sys.exit("localstack.runtime.main" not in psutil.Process(int(open(sys.argv[1]).read())).cmdline())
' "$pid_file" 2>/dev/null
}

healthy() {
  "$venv/bin/python" -c '
import json, sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
services = json.load(opener.open(sys.argv[1], timeout=2))["services"]
sys.exit(not all(services.get(name) in ("available", "running") for name in ("sns", "sqs")))
' "$endpoint/_localstack/health" 2>/dev/null
}

# LocalStack goes on without a port when its port is taken, and would never become ready.
require_free_port() {
  if "$venv/bin/python" -c '
import socket, sys
socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2)
' "$port" 2>/dev/null; then
    fail "port $port is taken by something else; set LOCALSTACK_PORT to use another"
  fi
}

# Starts LocalStack as a child that outlives the terminal; whether it is left running is the caller's business.
launch() {
  local settings=(
    # A profile that is set but not configured here would keep it from starting.
    -u AWS_PROFILE -u AWS_DEFAULT_PROFILE
    'SERVICES=sns,sqs'
    GATEWAY_LISTEN="127.0.0.1:$port"
    # The default server would ignore GATEWAY_LISTEN, and listen on all of the machine's addresses.
    GATEWAY_SERVER=hypercorn
    # Queue URLs with the address that the client used, since the default's host name needs a DNS server.
    SQS_ENDPOINT_STRATEGY=dynamic
    # Nothing from or to the internet, and no separate DNS server.
    SKIP_SSL_CERT_DOWNLOAD=1 DISABLE_EVENTS=1 DNS_ADDRESS=0
    # Keeps its files in our directory. In a container it would otherwise assume that it runs in its own image.
    OVERRIDE_IN_DOCKER=0 FILESYSTEM_ROOT="$cache/files" XDG_CACHE_HOME="$cache"
  )
  (
    trap '' HUP
    cd "$home"
    exec env "${settings[@]}" "$venv/bin/python" -m localstack.runtime.main </dev/null
  ) &
  echo $! >"$pid_file"
}

wait_until_ready() {
  local deadline=$((SECONDS + ready_timeout))
  until healthy; do
    kill -0 "$(cat "$pid_file")" 2>/dev/null || return 1
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.3
  done
}

setup() {
  # awslocal of the virtual environment, and the aws that it calls, before any other.
  PATH="$venv/bin:$PATH" AWS_ENDPOINT_URL=$endpoint no_proxy=127.0.0.1 DISABLE_DEPRECATION_NOTICE=1 \
    bash "$here/setup-sns.sh" || fail "setup-sns.sh failed"
}

stop() {
  if ! running; then
    rm -f "$pid_file"
    echo "No LocalStack of this script's runs on port $port"
    return
  fi
  # A client's long poll holds up its end by up to 20 s; all it has is in memory, so killing it loses nothing more.
  local pid deadline=$((SECONDS + 5))
  pid=$(cat "$pid_file")
  kill "$pid"
  while running; do
    if [ $SECONDS -ge $deadline ]; then
      kill -KILL "$pid" || true
      break
    fi
    sleep 0.2
  done
  rm -f "$pid_file"
  echo "LocalStack is stopped"
}

already_running() {
  running || healthy || return 1
  echo "LocalStack already runs at $endpoint"
  # Another start may still be at it, or may have been stopped before it came to the topic.
  wait_until_ready || fail "but it is not ready, and did not become so within $ready_timeout s"
  setup
}

start() {
  install
  if already_running; then
    return
  fi
  require_free_port
  trap stop EXIT # so that what did not become ready is not left behind
  launch >"$log" 2>&1
  wait_until_ready || {
    tail -n 20 "$log" >&2
    fail "LocalStack ended, or was not ready within $ready_timeout s; above is the end of $log"
  }
  setup
  trap - EXIT
  echo "LocalStack is ready at $endpoint (log: $log)"
}

run() {
  install
  if already_running; then
    return
  fi
  require_free_port
  trap stop EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  launch
  wait_until_ready || fail "LocalStack ended, or was not ready within $ready_timeout s"
  setup
  echo "LocalStack is ready at $endpoint; Ctrl-C stops it"
  wait "$(cat "$pid_file")"
}

case "${1:-}" in
  install)
    install
    echo "LocalStack is installed in $venv"
    ;;
  start) start ;;
  run) run ;;
  stop) stop ;;
  *) fail "usage: run-without-docker.sh install | start | run | stop" ;;
esac
