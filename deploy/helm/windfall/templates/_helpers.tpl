{{- define "windfall.name" -}}
{{- $name := .Release.Name }}
{{- if not (contains "windfall" $name) }}{{ $name = printf "windfall-%s" $name }}{{ end }}
{{- $name | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- define "windfall.selector" -}}
app.kubernetes.io/name: windfall-coordinator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "windfall.labels" -}}
{{ include "windfall.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "windfall.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion }}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ $tag }}{{ end }}
{{- end }}

{{- define "windfall.serviceAccount" -}}
{{- .Values.serviceAccount.existing | default (include "windfall.name" .) }}
{{- end }}

{{- define "windfall.claim" -}}
{{- .Values.storage.existingClaim | default (printf "%s-run" (include "windfall.name" .)) }}
{{- end }}

{{- define "windfall.insecure" -}}
{{- if regexMatch "(?m)^[ \\t]*insecure[ \\t]*=[ \\t]*[\"']I know[\"']" .Values.config }}yes{{ end }}
{{- end }}

{{/* What no schema can say: each fault in one sentence. */}}
{{- define "windfall.check" -}}
{{- if and (not .Values.config) (not .Values.existingConfigMap) }}
{{- fail "config: a run needs a configuration: --set-file config=run.toml, or existingConfigMap" }}
{{- end }}
{{- if and .Values.config .Values.existingConfigMap }}
{{- fail "config and existingConfigMap: one of them, not both" }}
{{- end }}
{{- if and (not .Values.certificates.existingSecret) (not (include "windfall.insecure" .)) }}
{{- fail "certificates.existingSecret: sites elsewhere need TLS: kubectl create secret generic NAME --from-file=ca.pem --from-file=endpoint.pem --from-file=endpoint.key, with the files of `windfall certs init`" }}
{{- end }}
{{- if .Values.config }}
{{- $port := int .Values.endpoint.port }}
{{- if not (regexMatch (printf "(?m)^[ \\t]*port[ \\t]*=[ \\t]*%d[ \\t]*(#.*)?$" $port) .Values.config) }}
{{- fail (printf "config: [network] has to say port = %d, which is endpoint.port" $port) }}
{{- end }}
{{- if and .Values.certificates.existingSecret (not (regexMatch "(?m)^[ \\t]*certificates[ \\t]*=[ \\t]*[\"'](/etc/windfall/)?certs/?[\"']" .Values.config)) }}
{{- fail "config: [network] has to say certificates = \"certs\", which is where the pod has them" }}
{{- end }}
{{- end }}
{{- if and (eq .Values.service.type "NodePort") (or (lt (int .Values.endpoint.port) 30000) (gt (int .Values.endpoint.port) 32767)) }}
{{- fail "endpoint.port: with NodePort sites reach nodes at that port, so it has to be one of 30000 to 32767 (network.port too)" }}
{{- end }}
{{- if and .Values.ingress.enabled (ne (int .Values.endpoint.port) 443) }}
{{- fail "endpoint.port: an ingress listens on 443, so that is the endpoint's port as well (network.port too)" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) }}
{{- fail "ingress.host: an ingress that passes TLS through needs the name that sites use (network.address)" }}
{{- end }}
{{- end }}
