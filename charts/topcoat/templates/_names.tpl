{{- /* Names and labels. Names follow the release; what is cluster-wide is named after its namespace, too. */ -}}

{{- define "topcoat.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "topcoat.fullname" -}}
{{- $name := include "topcoat.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "topcoat.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "topcoat.fullname" .) }}
{{- end }}

{{- /* The first and the last say to policies in other namespaces who the operator is, so they never change. */ -}}
{{- define "topcoat.selectorLabels" -}}
app.kubernetes.io/name: topcoat
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "topcoat.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: topcoat
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: topcoat
{{- end }}

{{- define "topcoat.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "topcoat.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* [registry/]repository[:tag][@digest] of `image`, in `context`; `registry` where the image names none. */ -}}
{{- define "topcoat.image" -}}
{{- with .image.registry | default .registry }}{{ . }}/{{ end }}
{{- .image.repository }}:{{ .image.tag | default .context.Chart.AppVersion }}
{{- with .image.digest }}@{{ . }}{{ end }}
{{- end }}

{{- /* A name without a registry means a public one to most nodes, where it may belong to anybody. */ -}}
{{- define "topcoat.pullPolicy" -}}
{{- .image.pullPolicy | default (ternary "IfNotPresent" "Never" (not (empty (.image.registry | default .registry)))) }}
{{- end }}

{{- define "topcoat.leaseName" -}}
{{ include "topcoat.fullname" . }}-operator
{{- end }}

{{- define "topcoat.progressName" -}}
{{ include "topcoat.fullname" . }}-progress
{{- end }}

{{- /* "true" where the operator gets Roles in namespaces in place of a ClusterRole. */ -}}
{{- define "topcoat.namespaced" -}}
{{- if or (eq .Values.rbac.scope "Namespace") (and (eq .Values.rbac.scope "Auto") .Values.watchNamespaces) }}true{{ end }}
{{- end }}
