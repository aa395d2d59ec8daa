# Source me: `. ./env.sh`. Makes `dagster asset materialize --select lora_checkpoint` work as it stands.
# For bash and zsh from any folder; for other shells from the root of the checkout.

if [ -n "${BASH_SOURCE:-}" ]; then
    _la_file="$BASH_SOURCE"
elif [ -n "${ZSH_VERSION:-}" ]; then
    eval '_la_file="${(%):-%x}"'
else
    _la_file="./env.sh"
fi
_la_root="$(CDPATH= cd -- "$(dirname -- "$_la_file")" && pwd)"

if [ -f "$_la_root/lora_assets/dagster.yaml" ]; then
    export DAGSTER_HOME="${LORA_ASSETS_HOME:-$_la_root/.lora-assets}/dagster"
    mkdir -p "$DAGSTER_HOME"
    # Dagster wants an absolute path.
    DAGSTER_HOME="$(CDPATH= cd -- "$DAGSTER_HOME" && pwd)"
    if ! cmp -s "$_la_root/lora_assets/dagster.yaml" "$DAGSTER_HOME/dagster.yaml"; then
        cp "$_la_root/lora_assets/dagster.yaml" "$DAGSTER_HOME/dagster.yaml.$$"
        mv "$DAGSTER_HOME/dagster.yaml.$$" "$DAGSTER_HOME/dagster.yaml"
    fi
    # `dagster asset materialize` reads neither workspace.yaml nor pyproject.toml; no other command reads this variable.
    export DAGSTER_CLI_ASSET_MATERIALIZE_MODULE_NAME=lora_assets.definitions
    # A code server beside a training on few cores answers late: Dagster's 60 seconds would fail runs and ticks for good.
    export DAGSTER_GRPC_TIMEOUT_SECONDS="${DAGSTER_GRPC_TIMEOUT_SECONDS:-900}"
    export DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS="${DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS:-900}"
    export DAGSTER_SCHEDULE_GRPC_TIMEOUT_SECONDS="${DAGSTER_SCHEDULE_GRPC_TIMEOUT_SECONDS:-900}"
    export DAGSTER_REPOSITORY_GRPC_TIMEOUT_SECONDS="${DAGSTER_REPOSITORY_GRPC_TIMEOUT_SECONDS:-900}"
    if [ -d "$_la_root/.venv/bin" ]; then
        case ":$PATH:" in
            *":$_la_root/.venv/bin:"*) ;;
            *) export PATH="$_la_root/.venv/bin:$PATH" ;;
        esac
    fi
else
    echo "env.sh: source me by my path, or from the root of the checkout" >&2
fi
unset _la_file _la_root
