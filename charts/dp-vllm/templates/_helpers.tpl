{{- /* Names leave room for a suffix: a Service's may have 63 characters, and no dot. */}}
{{- define "dp-vllm.name" -}}
{{- $name := .Release.Name | replace "." "-" }}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end }}
{{- $name | trunc 48 | trimSuffix "-" }}
{{- end }}

{{- /* For what is in no namespace. No name of a release or a namespace has a colon, so no two of them can be one. */}}
{{- define "dp-vllm.clusterName" -}}
{{ .Release.Namespace }}:{{ include "dp-vllm.name" . }}
{{- end }}

{{- define "dp-vllm.gatewayRole" -}}
{{ include "dp-vllm.clusterName" . }}-gateway
{{- end }}

{{- define "dp-vllm.selector" -}}
app.kubernetes.io/name: dp-vllm
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "dp-vllm.labels" -}}
{{ include "dp-vllm.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "dp-vllm.image" -}}
{{- with .Values.image }}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "dp-vllm.gatewayImage" -}}
{{ .Values.defaults.gatewayImage | default (printf "dp-vllm/gateway:%s" .Chart.AppVersion) }}
{{- end }}

{{- define "dp-vllm.simImage" -}}
{{ .Values.test.engineImage | default (printf "dp-vllm/sim:%s" .Chart.AppVersion) }}
{{- end }}

{{- /* The namespace of what the test makes, and of the first model of the notes. */}}
{{- define "dp-vllm.servedNamespace" -}}
{{ first .Values.namespaces | default .Release.Namespace }}
{{- end }}

{{- /* What pod specs have in common: where pods may run, and as whom. */}}
{{- define "dp-vllm.podSpec" -}}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- $user := .Values.securityContext.runAsUser | default -1 | int }}
  {{- if gt $user 0 }}
  runAsUser: {{ $user }}
  {{- end }}
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "dp-vllm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
