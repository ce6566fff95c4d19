{{- /* What the operator may do. tests/charts/golden-rbac.yaml repeats it: a wider rule fails there. */ -}}

{{- /* In the namespaces that it looks after. */ -}}
{{- define "topcoat.rules.watched" -}}
- apiGroups: [topcoat.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch]
- apiGroups: [topcoat.dev]
  resources: [modelservers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [topcoat.dev]
  resources: [finetunejobs/status, modelservers/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch, delete]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, create]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]
{{- end }}

{{- /* Of what belongs to no namespace. */ -}}
{{- define "topcoat.rules.cluster" -}}
- apiGroups: [topcoat.dev]
  resources: [finetuneprofiles]
  verbs: [get, list, watch]
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
{{- end }}

{{- /* In its own namespace. What is created cannot be restricted by name. */ -}}
{{- define "topcoat.rules.own" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ include "topcoat.leaseName" . }}]
  verbs: [get, update, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [topcoat-operator-key]
  verbs: [get]
{{- end }}
