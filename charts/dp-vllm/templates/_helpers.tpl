{{- define "dp-vllm.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "dp-vllm.labels" -}}
app.kubernetes.io/name: dp-vllm
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "dp-vllm.selector" -}}
app.kubernetes.io/name: dp-vllm
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "dp-vllm.gatewayImage" -}}
{{ .Values.defaults.gatewayImage | default (printf "dp-vllm/gateway:%s" .Chart.AppVersion) }}
{{- end }}
